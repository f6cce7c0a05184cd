"""Train every algorithm within its budget and write what each reached into docs/algorithms.md.

python scripts/compare.py data_dir=path/to/folder, or only=[maml,anil]. Runs go one after the other, each exactly the
command that the page prints, in a process of its own; the tables say nothing that no result.json says.
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

from meta.cli import command
from meta.cli.overrides import ConfigError
from meta.problems import metric_of


def job(config: DictConfig) -> None:
    tables: Any = OmegaConf.to_container(config.tables, resolve=True)
    known = sorted({name for table in tables.values() for name in table["runs"]})
    unknown = sorted(set(config.only) - set(known))
    if unknown:
        raise ConfigError(f"unknown runs only={unknown}; choose some of {', '.join(known)}.")
    for title, table in tables.items():
        results = {}
        for name, own in table["runs"].items():
            folder = Path(config.folder) / title / name
            overrides = [*table["common"], *own]
            if not config.only or name in config.only:
                train(folder, [*overrides, f"device={config.device}", f"data_dir={config.data_dir}"])
            if (folder / "result.json").is_file():
                results[name] = (overrides, json.loads((folder / "result.json").read_text(encoding="utf-8")))
        if len(results) == len(table["runs"]):
            text = render(results)
            print(f"\n{title}\n\n{text}")
            if config.write not in (None, "none"):
                insert(Path(config.write), title, text)
                for name in results:
                    keep_pictures(Path(config.folder) / title / name, Path(config.write), f"{title}-{name}")


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


def render(results: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]]) -> str:
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


def insert(page: Path, title: str, text: str) -> None:
    """Put a table between its markers and leave the rest of the page as it is.

    Raises: ValueError where the page lacks a marker.
    """
    begin, end = f"<!-- scripts/compare.py writes {title} from here -->", f"<!-- {title} to here -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(
            f"{page}: has no place for the table {title}; add the two lines {begin!r} and {end!r}."
        )
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
