"""Meet one task of a run again, bit for bit: python scripts/replay.py run_dir=outputs/... iteration=123 slot=7

Trains from the nearest checkpoint up to that meta-update, and shows the task, its adaptation step by step and its
gradient.
hardest=6 shows the test tasks that went worst, with what the model took their queries for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from meta.cli import command
from meta.cli.finished import folder_of, printing_what_is_not_written
from meta.cli.overrides import ConfigError
from meta.problems import metric_of
from meta.replay import hardest_tasks, replay_run

OWN = ("device", "workers", "data_dir")


def job(config: DictConfig) -> None:
    folder = folder_of(config)
    gallery = config.hardest is not None
    if gallery == (config.iteration is not None):
        raise ConfigError(
            "name one: iteration=... and slot=... of a training task, or hardest=... of the test tasks."
        )
    name = config.name or ("hardest" if gallery else "replay")
    overrides = {key: config[key] for key in OWN if config[key] is not None}
    with printing_what_is_not_written(folder, name, "replay it again"):
        if gallery:
            result = hardest_tasks(folder, tasks=config.hardest, name=name, overrides=overrides)
        else:
            result = replay_run(
                folder, iteration=config.iteration, slot=config.slot, name=name, overrides=overrides
            )
    print(gallery_table(result) if gallery else said(result))
    print(f"written: {folder / name}.json\n         {folder / 'plots' / name}.png, .pdf, .svg")


def said(result: Mapping[str, Any]) -> str:
    metric = metric_of(result)
    lines = [
        f"iteration {result['iteration']}, slot {result['slot']}, from {result['from']}: "
        f"{metric.name} {metric.format(result[metric.name])}, loss {result['loss']:.4f}",
        *([f"classes: {', '.join(result['classes'])}"] if result["classes"] else []),
        f"task {result['task']}, gradient sha256 {result['gradient_sha256'][:16]}...",
        f"{'inner steps':>11}  {metric.name:>16}  {'loss':>8}",
    ]
    lines += [
        f"{step:>11}  {metric.format(at[metric.name]):>16}  {at['loss']:>8.4f}"
        for step, at in enumerate(result["steps"])
    ]
    return "\n".join(lines)


def gallery_table(result: Mapping[str, Any]) -> str:
    metric = metric_of(result)
    lines = [f"{'slot':>6}  {metric.name:>16}  {'loss':>8}  classes"]
    lines += [
        f"{at['slot']:>6}  {metric.format(at[metric.name]):>16}  {at['loss']:>8.4f}  {', '.join(at['classes'] or [])}"
        for at in result["tasks"]
    ]
    return "\n".join(lines)


def main() -> None:
    command.run("replay", job)


if __name__ == "__main__":
    main()
