"""Hold a published number against runs of its setting: python scripts/reproduce.py name=maml_omniglot_5w1s seeds=3

Trains each seed to the published length, going on where a run was stopped, tests as published, and ends in a verdict:
reproduced, above, below, or not enough evidence. page=docs/reproduced.md writes a table of all experiments.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from meta.cli import command
from meta.cli.configs import CONF
from meta.cli.overrides import ConfigError
from meta.cli.value_types import quoted
from meta.evaluate_run import evaluate_run
from meta.files import atomic_write, write_json
from meta.metrics_file import plain
from meta.problems import metric_of
from meta.record import may_change
from meta.reproduction import Published, aggregate, in_words, page, read_results, verdict
from meta.resume import holds_run
from meta.task_results import load

NAME = "published"  # of the evaluation in each run's folder


def job(config: DictConfig) -> None:
    if config.name is None and config.page is None:
        raise ConfigError(
            f"nothing to do: give name=..., one of {', '.join(targets())}; or page=... to write the table."
        )
    if config.name is not None:
        print(said(reproduce(config)))
    if config.page is not None:
        known = targets()
        results = [_sourced(one, known) for one in read_results(Path(config.results))]
        run = {one["experiment"] for one in results}
        waiting = {name: target for name, target in known.items() if name not in run}
        call = f"python scripts/reproduce.py results={config.results}"
        again = f"```sh\n{call} name=NAME seeds=3 data_dir=path/to/folder\n{call} page={config.page}\n```\n"
        atomic_write(Path(config.page), page(results, waiting, again).encode())
        print(f"written: {config.page}")


def targets() -> dict[str, Published]:
    """Experiment → what is published, of those that say so."""
    found = {}
    for path in sorted((CONF / "experiment").glob("*.yaml")):
        published = OmegaConf.select(OmegaConf.load(path), "published")
        if published is not None:
            found[path.stem] = Published(**{key: published.get(key) for key in Published._fields})
    return found


def reproduce(config: DictConfig) -> dict[str, Any]:
    """Train, test, aggregate, judge; leaves <results>/<name>.json and gives its content."""
    known = targets()
    if config.name not in known:
        raise ConfigError(f"name={config.name} has no published number; choose one of {', '.join(known)}.")
    if not isinstance(config.seeds, int) or config.seeds < 1:
        raise ConfigError(f"seeds={config.seeds} must be an integer of 1 or more.")
    further = shlex.split(str(config.overrides))
    setting = [f"experiment={config.name}", *further]
    folders = [Path(config.run_dir) / config.name / str(seed) for seed in range(config.seeds)]
    for seed, folder in enumerate(folders):
        train(
            folder,
            [*setting, f"seed={seed}"],
            [f"data_dir={quoted(config.data_dir)}", f"device={config.device}"],
        )
    ended = []
    for folder in folders:
        trained = OmegaConf.load(folder / ".hydra" / "config.yaml")
        evaluate_run(
            folder,
            tasks=trained.evaluation.tasks,
            which=trained.published.checkpoint,
            name=NAME,
            overrides={"data_dir": str(config.data_dir), "device": config.device},
        )
        ended.append(json.loads((folder / "result.json").read_text(encoding="utf-8")))
    found = aggregate([load(folder / f"{NAME}.safetensors") for folder in folders])
    metric = metric_of(ended[0])
    judged = verdict(known[config.name], found.score, found.ci95, metric)
    result = plain(
        {
            "experiment": config.name,
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            "published": known[config.name]._asdict(),
            **found._asdict(),
            "verdict": judged.word,
            "difference": judged.difference,
            "difference_ci95": judged.ci95,
            "z": judged.z,
            "changed": [one for one in further if _changes(one)],
            "iterations": ended[0]["iterations"],
            "hours": sum(one["seconds"] for one in ended) / 3600,
            "device": ended[0]["device"],
            "configuration": ended[0]["record"]["sha256"],
            "data": ended[0]["data"]["checksum"],
            "versions": ended[0]["versions"],
            "commit": _commit(),
        }
    )
    write_json(Path(config.results) / f"{config.name}.json", result)
    return result


def train(folder: Path, setting: Sequence[str], place: Sequence[str]) -> None:
    """The run in a folder, from its beginning or from where it was stopped, to its end.

    place: overrides of where it runs and finds its data, which may change when it goes on. In a process of its own, so
    that it leaves what scripts/train.py leaves. Raises: ConfigError where it fails, having said why.
    """
    begun = holds_run(folder)
    how = [f"resume={quoted(folder)}"] if begun else [*setting, f"hydra.run.dir={quoted(folder)}"]
    done = subprocess.run([sys.executable, "-m", "neo", "train", *how, *place], check=False)
    if done.returncode:
        raise ConfigError(
            f"the training in {folder} ended with exit code {done.returncode}; the reason is above."
        )


def said(result: dict[str, Any]) -> str:
    metric = metric_of(result)
    published = result["published"]
    seeds = "" if result["over_seeds"] is None else f", over seeds ± {metric.format(result['over_seeds'])}"
    return (
        f"{result['experiment']}: published {metric.format(published['score'], published['ci95'])}, ours "
        f"{metric.format(result['score'], result['ci95'])} (over tasks ± {metric.format(result['over_tasks'])}{seeds}; "
        f"{result['seeds']} seed{'s' if result['seeds'] > 1 else ''}): {in_words(result['verdict'], metric)}; "
        f"z = {result['z']:+.1f}"
    )


def _sourced(result: dict[str, Any], known: dict[str, Published]) -> dict[str, Any]:
    """A result, with what is known by now of where its published number comes from, if it still is that number."""
    now, then = known.get(result["experiment"]), result["published"]
    if now is None or (now.score, now.ci95) != (then["score"], then["ci95"]):
        return result
    return result | {"published": now._asdict()}


def _changes(override: str) -> bool:
    """Whether the number depends on it; of what may change when a run is resumed, only its length."""
    key = override.lstrip("+~").partition("=")[0]
    return key == "trainer.iterations" or not may_change(key)


def _commit() -> str:
    """Of the checkout that Neo lies in, with + where it was changed since; "" for an installed one."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=CONF.parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except OSError:
        return ""


def main() -> None:
    command.run("reproduce", job)


if __name__ == "__main__":
    main()
