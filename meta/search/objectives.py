"""What a search looks for: the validation score, seconds, or anything else that a run logs, and in which direction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meta.cli.value_types import ConfigError
from meta.metrics_file import read_metrics
from meta.problems import Metric, metric_of

__all__ = ["DIRECTIONS", "directions", "names", "prunable", "values"]

DIRECTIONS = ("minimize", "maximize")
SCORE, SECONDS = "score", "seconds"


def directions(objectives: Sequence[str], given: Sequence[str] | None, metric: Metric) -> list[str]:
    """The direction of each objective: as given, or by what it is.

    Raises: ConfigError for an objective or a direction that cannot be.
    """
    if not objectives:
        raise ConfigError(
            "hydra.sweeper.objectives is empty; expected [score], or several as [score,seconds]."
        )
    for name in objectives:
        if name.startswith("test"):
            raise ConfigError(
                f"hydra.sweeper.objectives has {name}: a search never looks at the test tasks, or their score would "
                "tell nothing any more; choose score, the validation score."
            )
        if name not in (SCORE, SECONDS) and not name.startswith(("val/", "train/")):
            raise ConfigError(
                f"unknown objective {name!r} in hydra.sweeper.objectives; expected score, seconds, or a name from "
                "metrics.jsonl that begins with val/ or train/."
            )
    if given is not None:
        if len(given) != len(objectives) or not set(given) <= set(DIRECTIONS):
            raise ConfigError(
                f"hydra.sweeper.directions=[{','.join(given)}] must be minimize or maximize for each of the "
                f"{len(objectives)} objectives {', '.join(objectives)}; null takes them from what they are."
            )
        if SCORE in objectives and given[objectives.index(SCORE)] != _by_metric(metric):
            raise ConfigError(
                f"hydra.sweeper.directions would {given[objectives.index(SCORE)]} the validation {metric.name}, of "
                f"which {'more' if metric.higher_is_better else 'less'} is better; leave hydra.sweeper.directions out."
            )
        return list(given)
    return [_direction(name, metric) for name in objectives]


def names(objectives: Sequence[str], metric: Metric) -> list[str]:
    """As people and pictures of the study call them: the score by the name of its metric."""
    return [metric.name if name == SCORE else name for name in objectives]


def prunable(objectives: Sequence[str]) -> bool:
    """Whether a trial can be stopped by what its validations report, the score: pruners know one objective."""
    return list(objectives) == [SCORE]


def values(folder: Path, objectives: Sequence[str], directions: Sequence[str]) -> list[float]:
    """Of the finished run in folder. Raises: ValueError where it has no such number."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    lines = read_metrics(folder / "metrics.jsonl")
    metric = metric_of(result)
    if SCORE in objectives and directions[objectives.index(SCORE)] != _by_metric(metric):
        raise ValueError(
            f"{folder} was scored by {metric.name}, whose direction is not the study's; search over one task at a time."
        )
    return [_value(folder, name, metric, result, lines) for name in objectives]


def _value(folder: Path, name: str, metric: Metric, result: dict[str, Any], lines: Sequence[Any]) -> float:
    key = f"val/{metric.name}" if name == SCORE else name
    if key == SECONDS:
        return float(result[SECONDS])
    found = next((line[key] for line in reversed(lines) if line.get(key) is not None), None)
    if found is None:
        logged = sorted({key for line in lines for key in line if key.startswith(("val/", "train/"))})
        raise ValueError(f"{folder}/metrics.jsonl has no finite {key}; it has {', '.join(logged)}.")
    return float(found)


def _by_metric(metric: Metric) -> str:
    return "maximize" if metric.higher_is_better else "minimize"


def _direction(name: str, metric: Metric) -> str:
    if name in (SCORE, f"val/{metric.name}", f"train/{metric.name}"):
        return _by_metric(metric)
    if name in (SECONDS, "val/loss", "train/loss", "val/ci95"):
        return "minimize"
    raise ConfigError(
        f"is more {name!r} better or worse? Say so for each objective: hydra.sweeper.directions=[maximize,...]."
    )
