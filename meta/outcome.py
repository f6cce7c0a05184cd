"""What a finished run is for people: its pictures, its result in a sentence, and its score for a search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta import plots
from meta.experiment import Experiment
from meta.metrics_file import read_metrics
from meta.problems import metric_of
from meta.trainer import State

__all__ = ["draw", "sentence", "validation_score"]


def draw(experiment: Experiment, state: State, folder: Path, result: Mapping[str, Any]) -> dict[str, Path]:
    """Draw the pictures of a finished run: name → path of the PNG, which has a PDF and an SVG beside it."""
    sampler = experiment.sampler("test")
    title = experiment.title(sampler)
    paths = {"learning_curve": folder / "plots" / "learning_curve.png"}
    plots.learning_curve(
        read_metrics(folder / "metrics.jsonl"),
        paths["learning_curve"],
        title=title,
        chance=sampler.chance,
        result=result,
        metric=experiment.problem.metric,
    )
    if experiment.picture is not None:
        paths["tasks"] = folder / "plots" / "tasks.png"
        steps = experiment.config.evaluation.inner_steps
        experiment.picture(experiment.trained(state), sampler, paths["tasks"], title=title, steps=steps)
    return paths


def sentence(result: Mapping[str, Any], part: str = "test") -> str:
    """A result for people: "test accuracy 92.11% ± 0.51 (95% interval over 600 unseen tasks)"."""
    metric = metric_of(result)
    value, ci95 = result[f"{part}/{metric.name}"], result[f"{part}/ci95"] or 0.0
    said = "not a finite number" if value is None else metric.format(value, ci95)
    return f"{part} {metric.name} {said} (95% interval over {result[f'{part}/tasks']} unseen tasks)"


def validation_score(folder: Path) -> float | None:
    """The last validation score of the finished run in folder, an error as its negative, so that more is better.

    None where it had no validation. What a search over hyperparameters maximises: the test split has no part in it.
    """
    metric = metric_of(json.loads((folder / "result.json").read_text(encoding="utf-8")))
    for line in reversed(read_metrics(folder / "metrics.jsonl")):
        value = line.get(f"val/{metric.name}")
        if value is not None:
            return value if metric.higher_is_better else -value
    return None
