"""Two runs on the same tasks, compared task by task: what is hard about a task is hard for both and cancels."""

from __future__ import annotations

from typing import NamedTuple

import numpy
import torch

from meta.evaluate import half_width
from meta.task_results import Results, ResultsError

__all__ = ["Difference", "difference"]


class Difference(NamedTuple):
    """Of `other` minus `one`, over the tasks that both met."""

    tasks: int  # in common
    mean: float  # of the scores' differences, in the score's unit
    ci95: float  # half-width of its 95% interval, 1.96 σ_d / √tasks; NaN for a single task
    better: int  # tasks on which `other` did better, by the metric's own direction
    worse: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.mean) > self.ci95


def difference(one: Results, other: Results, *, step: int | None = None) -> Difference:
    """other − one, paired by the tasks' checksums.

    The interval is over tasks, the two runs given: it says nothing of what other seeds of training would have given.

    Args:
        step: inner steps after which both are compared; None for the last of each.
    Raises: ResultsError where scores are of different kinds, or no task is common to both.
    """
    if one.metric.name != other.metric.name:
        raise ResultsError(
            f"{one.path} holds {one.metric.name} and {other.path} {other.metric.name}: no difference between them "
            "means anything."
        )
    rows = _common(one.record.checksums, other.record.checksums)
    if rows is None:
        raise ResultsError(
            f"{one.path} and {other.path} have no task in common{_reason(one, other)}; evaluate both under one "
            "protocol and seed."
        )
    ours, theirs = rows
    column = -1 if step is None else step
    values = other.record.scores[theirs, column] - one.record.scores[ours, column]
    sign = 1 if one.metric.higher_is_better else -1
    return Difference(
        tasks=len(values),
        mean=float(values.mean()),
        ci95=half_width(values),
        better=int((sign * values > 0).sum()),
        worse=int((sign * values < 0).sum()),
    )


def _common(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The rows of each that hold the same tasks, in one order; None where there are none."""
    if torch.equal(one, other):
        return torch.arange(len(one), device="cpu"), torch.arange(len(other), device="cpu")
    _, ours, theirs = numpy.intersect1d(one.numpy(), other.numpy(), return_indices=True)
    return (torch.from_numpy(ours), torch.from_numpy(theirs)) if len(ours) else None


def _reason(one: Results, other: Results) -> str:
    """The entries of the two protocols that say which tasks there were, where they differ."""
    ours, theirs = one.about.get("protocol", {}), other.about.get("protocol", {})
    keys = ("dataset", "split", "part", "ways", "shots", "queries", "test_rotations", "evaluation_seed")
    differ = [
        f"{key} {ours.get(key)} and {theirs.get(key)}" for key in keys if ours.get(key) != theirs.get(key)
    ]
    return f" ({', '.join(differ)})" if differ else ""
