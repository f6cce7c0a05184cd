"""Per-task results on disk, so that two runs can be compared task by task: one safetensors file, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from meta.evaluate import Evaluation, Record, half_width
from meta.files import atomic_write
from meta.metrics_file import plain
from meta.problems import Metric, metric_of

__all__ = ["Results", "ResultsError", "Step", "load", "write"]

FORMAT = 1  # counts up when old files can no longer be read
SUFFIX = ".safetensors"


class ResultsError(ValueError):
    """Per-task results are missing, damaged, or cannot be compared."""


class Step(NamedTuple):
    """Means over tasks after some number of inner steps."""

    score: float
    ci95: float  # half-width of its 95% interval; NaN for a single task
    loss: float


class Results(NamedTuple):
    """One evaluation: tensors "scores" and "losses" (tasks, steps + 1) float64, "checksums" (tasks,) int64.

    about: what the header's "neo-results" entry says: metric, part, protocol, and what else the caller gave.
    """

    path: Path
    record: Record
    about: dict[str, Any]

    @property
    def metric(self) -> Metric:
        return metric_of(self.about)

    @property
    def tasks(self) -> int:
        return len(self.record.checksums)

    @property
    def steps(self) -> int:
        """Inner steps after which the last scores were taken."""
        return self.record.scores.shape[1] - 1

    def by_step(self) -> list[Step]:
        """After 0, 1, ..., self.steps inner steps."""
        return [
            Step(float(scores.mean()), half_width(scores), float(losses.mean()))
            for scores, losses in zip(self.record.scores.T, self.record.losses.T, strict=True)
        ]


def write(path: Path, evaluation: Evaluation, metric: Metric, about: Mapping[str, Any]) -> None:
    """Keep an evaluation that was recorded. about: plain values, protocol among them."""
    if evaluation.record is None:
        raise ValueError(
            "task_results.write: this evaluation has no record; evaluate(..., record=True) keeps one"
        )
    header = plain(
        {**about, "metric": metric.name, "higher_is_better": metric.higher_is_better, "format": FORMAT}
    )
    tensors = {name: tensor.contiguous() for name, tensor in evaluation.record._asdict().items()}
    atomic_write(path, save(tensors, {"neo-results": json.dumps(header)}))


def load(path: Path) -> Results:
    """Raises: ResultsError for a file that is missing, damaged, foreign or of another format."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["neo-results"])
            record = Record(*(file.get_tensor(name) for name in Record._fields))
    except FileNotFoundError:
        raise ResultsError(f"{path} does not exist, expected per-task results.") from None
    except KeyError:
        raise ResultsError(f"{path} holds no per-task results of Neo: its header has none.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ResultsError(f"{path} is damaged and cannot be read ({error}).") from error
    if about.get("format") != FORMAT:
        raise ResultsError(
            f"{path} is of format {about.get('format')}, expected {FORMAT}; read it with the version of Neo that "
            "wrote it."
        )
    if record.scores.shape != record.losses.shape or len(record.scores) != len(record.checksums):
        raise ResultsError(f"{path} is damaged: its scores, losses and checksums disagree in length.")
    return Results(path, record, about)
