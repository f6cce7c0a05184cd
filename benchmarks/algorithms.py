"""Train every algorithm within its budget and write what each reached into docs/algorithms.md.

python scripts/compare.py data_dir=path/to/folder, or only=[maml,omniglot_5w1s/anil]. Runs go one after the other, each
exactly the command that the page prints, in a process of its own; the tables say nothing that no file of a run says.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from meta import task_results
from meta.cli import command
from meta.cli.overrides import ConfigError
from meta.paired import difference
from meta.problems import metric_of
from meta.report.page import format_difference

# run → its overrides, and what its result.json says
Results = dict[str, tuple[Sequence[str], Mapping[str, Any]]]

WRITTEN = (
    4  # columns of a table to be filled in that people write: name, what adapts, what is learned, source
)


def job(config: DictConfig) -> None:
    tables: Any = OmegaConf.to_container(config.tables, resolve=True)
    named = {f"{title}/{name}" for title, table in tables.items() for name in table["runs"]}
    known = sorted({name.partition("/")[2] for name in named})
    unknown = sorted(set(config.only) - named - set(known))
    if unknown:
        raise ConfigError(f"unknown runs only={unknown}; choose some of {', '.join(known)}.")
    found: dict[str, Results] = {}
    for title, table in tables.items():
        found[title] = results = {}
        for name, own in table["runs"].items():
            folder = Path(config.folder) / title / name
            overrides = [*table["common"], *own]
            if not config.only or {name, f"{title}/{name}"} & {*config.only}:
                train(folder, [*overrides, f"device={config.device}", f"data_dir={config.data_dir}"])
            if (folder / "result.json").is_file():
                results[name] = (overrides, json.loads((folder / "result.json").read_text(encoding="utf-8")))
    filled: Any = OmegaConf.to_container(config.filled, resolve=True)
    for title, table in tables.items():
        if len(found[title]) < len(table["runs"]) or any(title in one["tables"] for one in filled.values()):
            continue
        write(config, title, render(found[title]))
        for name in found[title] if config.write not in (None, "none") else ():
            keep_pictures(Path(config.folder) / title / name, Path(config.write), f"{title}-{name}")
    for title, one in filled.items():
        compared = {name: found[name] for name in one["tables"] if one["against"] in found[name]}
        if compared and config.write not in (None, "none"):
            text = fill(Path(config.write), title, Path(config.folder), compared, one["against"])
            write(config, title, text)


def write(config: DictConfig, title: str, text: str) -> None:
    """Say a table, and put it into the page."""
    print(f"\n{title}\n\n{text}")
    if config.write not in (None, "none"):
        insert(Path(config.write), title, text)


def train(folder: Path, overrides: Sequence[str]) -> None:
    """Do a run, or the rest of one; nothing if it has finished. Raises: ValueError where it fails."""
    if (folder / "result.json").is_file():
        return
    begun = (folder / "checkpoints").is_dir()
    arguments = [f"resume='{folder}'"] if begun else [*overrides, f"hydra.run.dir='{folder}'"]
    if subprocess.run([sys.executable, "-m", "meta.cli.train", *arguments], check=False).returncode != 0:
        raise ValueError(
            f"{folder}: the run failed; see above. What it has written stays, and it will go on from there."
        )


def render(results: Results) -> str:
    """A row a run, then how they were called. results: name → overrides, content of result.json."""
    first = next(iter(results.values()))[1]
    metric = metric_of(first)
    lines = [
        f"| run | iterations | tasks each | inner steps, training / test | minutes | test {metric.name} | chance |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (_, result) in results.items():
        protocol = result["protocol"]
        cells = [
            name,
            result["iterations"],
            protocol["meta_batch"],
            _inner_steps(protocol),
            f"{result['seconds'] / 60:.1f}",
            metric.format(result[f"test/{metric.name}"], result["test/ci95"]),
            metric.format(result["test/chance"], digits=0 if metric.fraction else 2),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    commands = [f"python scripts/train.py {shlex.join(overrides)}" for overrides, _ in results.values()]
    machine = f"{first['device']}; torch {first['versions']['torch']}"
    over = f"{first['test/tasks']} unseen tasks, of one run each, seed {first['seed']}"
    return "\n".join(
        [
            *lines,
            "",
            f"Intervals are 95% over {over}. {machine}.",
            "",
            "```sh",
            *commands,
            "```",
        ]
    )


def _inner_steps(protocol: Mapping[str, Any]) -> str:
    """In training and in testing: "1 / 3"; "none" for an algorithm that takes none."""
    steps = protocol.get("inner_steps"), protocol["test_inner_steps"]
    return "none" if steps == (None, None) else " / ".join(map(str, steps))


def fill(page: Path, title: str, folder: Path, compared: Mapping[str, Results], against: str) -> str:
    """The page's table of this title, its first columns as they are, with what the runs found behind them.

    For each of the compared tables the score of every run and its difference from the run `against`, paired by tasks
    (meta.paired); first of all the cost of a task, by the first table: runs of one budget of processor time, so that
    the number of tasks tells it. An empty cell: not run.
    Raises: ValueError where a run has no row.
    """
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")][:WRITTEN]
        for line in place(page, title)[1].strip().splitlines()
        if line.startswith("|")
    ]
    lacking = {name for results in compared.values() for name in results} - {
        row[0].strip("`") for row in rows
    }
    if lacking:
        raise ValueError(f"{page}: the table {title} has no row for {', '.join(sorted(lacking))}; write one.")
    first = next(iter(compared.values()))
    seen = {name: one["iterations"] * one["protocol"]["meta_batch"] for name, (_, one) in first.items()}
    columns: list[dict[str, str]] = [{name: f"{seen[against] / tasks:.1f}" for name, tasks in seen.items()}]
    headings, notes = ["cost"], []
    for table, results in compared.items():
        base = task_results.load(folder / table / against / "test.safetensors")
        scores, differences = {}, {}
        for name, (_, one) in results.items():
            own = task_results.load(folder / table / name / "test.safetensors")
            apart = difference(base, own)
            scores[name] = own.metric.format(one[f"test/{own.metric.name}"], one["test/ci95"], digits=1)
            differences[name] = format_difference(own.metric, apart.mean, apart.ci95)
        differences[against] = ""
        overrides, one = results[against]
        protocol = one["protocol"]
        setting = f"{protocol['ways']}-way {protocol['shots']}-shot"
        columns += [scores, differences]
        headings += [setting, f"− {against}"]
        notes.append(
            f"{setting}: {one['test/tasks']} unseen tasks, one run each, seed {one['seed']}, {one['device']}, torch "
            f"{one['versions']['torch']}.\n\n```sh\npython scripts/train.py {shlex.join(overrides)}\n```"
        )
    lines = [
        [*rows[0], *headings],
        ["---"] * (WRITTEN + len(headings)),
        *([*row, *(column.get(row[0].strip("`"), "") for column in columns)] for row in rows[2:]),
    ]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", "\n\n".join(notes)])


def place(page: Path, title: str) -> tuple[str, str, str]:
    """A page in front of the marker of a table, up to the other marker, and behind, markers left out.

    Raises: ValueError where the page lacks a marker.
    """
    begin, end = markers(title)
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    between, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(
            f"{page}: has no place for the table {title}; add the two lines {begin!r} and {end!r}."
        )
    return before, between, after


def markers(title: str) -> tuple[str, str]:
    return f"<!-- scripts/compare.py writes {title} from here -->", f"<!-- {title} to here -->"


def insert(page: Path, title: str, text: str) -> None:
    """Put a table between its markers and leave the rest of the page as it is."""
    begin, end = markers(title)
    before, _, after = place(page, title)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def keep_pictures(folder: Path, page: Path, name: str) -> None:
    """The pictures of a run that the page shows, as <page>-<name>-<picture>.png beside it."""
    text = page.read_text(encoding="utf-8")
    for picture in sorted((folder / "plots").glob("*.png")):
        kept = page.with_name(f"{page.stem}-{name}-{picture.name}")
        if f"({kept.name})" in text:
            shutil.copyfile(picture, kept)


def main() -> None:
    command.run("compare", job)


if __name__ == "__main__":
    main()
