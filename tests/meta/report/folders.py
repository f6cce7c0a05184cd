"""Run folders made by hand, in milliseconds: what a report reads, and no training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from meta.evaluate import Evaluation, Record
from meta.problems import ACCURACY, Metric
from meta.task_results import write

TASKS = 40


def write_run(
    folder: Path,
    *,
    val: float | None = 0.7,
    test: float | None = 0.7,
    checksums: Sequence[int] = range(TASKS),
    metric: Metric = ACCURACY,
    failure: str | None = None,
    lines: int = 6,
    steps: int = 2,
    **settings: Any,
) -> Path:
    """A run whose last validation score is `val` and whose mean test score is `test`; None: it never got there.

    settings: dotted keys, with "__" for the dot.
    """
    config: dict[str, Any] = {
        "seed": 0,
        "task": {"ways": 5, "seed": "${seed}"},
        "algorithm": {"inner_lr": 0.4},
    }
    for key, value in settings.items():
        *path, last = key.split("__")
        node = config
        for part in path:
            node = node[part]
        node[last] = value
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    logged = []
    for number in range(1, lines + 1):
        line = {"step": 10 * number, "seconds": 2.0 * number, "train/loss": 1 / number}
        line[f"train/{metric.name}"] = 0.5 + 0.02 * number
        if val is not None and number % 2 == 0:
            share = number / lines
            line |= {"val/loss": 0.5, f"val/{metric.name}": val * (0.5 + share / 2), "val/ci95": 0.02}
        logged.append(line)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    if failure is not None:
        (folder / "failure.json").write_text(json.dumps({"error": "TrainingError", "sentence": failure}))
    if test is None or failure is not None:
        return folder
    # Tasks of different difficulty, the same for every run; the mean over tasks and steps up to the last is linear.
    hardness = torch.linspace(-0.1, 0.1, len(checksums), dtype=torch.float64)
    scores = torch.stack([test * (k + 1) / (steps + 1) + hardness for k in range(steps + 1)], dim=1)
    evaluation = Evaluation(
        scores[:, -1], scores[:, -1], Record(scores, 1 - scores, torch.tensor(list(checksums)))
    )
    protocol = {"dataset": "glyphs", "ways": 5, "shots": 1, "batch_norm": "batch"}
    write(folder / "test.safetensors", evaluation, metric, {"part": "test", "protocol": protocol})
    result = {
        "metric": metric.name,
        f"test/{metric.name}": evaluation.mean,
        "test/ci95": evaluation.ci95,
        "test/loss": 0.5,
        "test/tasks": len(checksums),
        "test/chance": 0.2 if metric is ACCURACY else None,
        "iterations": 10 * lines,
        "seconds": 75.0,
        "protocol": protocol,
        "versions": {"torch": "2"},
        "device": "cpu",
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_sweep(folder: Path) -> Path:
    """Eight arms: three rates by two seeds, one that failed and one that was stopped."""
    scores = {(0.1, 0): 0.60, (0.1, 1): 0.62, (0.4, 0): 0.72, (0.4, 1): 0.70, (1.0, 0): 0.66, (1.0, 1): 0.71}
    for number, ((rate, seed), score) in enumerate(scores.items()):
        write_run(folder / str(number), val=score, test=score - 0.01, seed=seed, algorithm__inner_lr=rate)
    write_run(
        folder / "6", val=None, lines=1, failure="step 11: it broke <b>& burnt</b>", algorithm__inner_lr=1e38
    )
    write_run(folder / "7", val=0.5, test=None, lines=3, algorithm__inner_lr=2.0)
    return folder
