"""Adapt on unseen tasks and measure: mean, 95% interval, every task's result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from meta import batch_norm as normalisation
from meta.algorithms.base import MetaLearner
from neo.draws import parts_from
from neo.typing import Params
from tasks import Task

__all__ = ["Evaluation", "Record", "evaluate", "half_width"]


class Sampler(Protocol):
    """Where tasks come from: a pure function of (iteration, slot)."""

    def sample(self, iteration: int, slots: int | Sequence[int]) -> Task: ...


class Record(NamedTuple):
    """What each task gave after each number of inner steps, on the CPU."""

    scores: (
        torch.Tensor
    )  # (tasks, steps + 1) float64: mean score over the queries after 0, 1, ..., `steps` steps
    losses: torch.Tensor  # (tasks, steps + 1) float64: query loss
    checksums: torch.Tensor  # (tasks,) int64: which task it was, see tasks.Task.checksum


@dataclass(frozen=True)
class Evaluation:
    """Results over tasks."""

    scores: (
        torch.Tensor
    )  # (tasks,) float64 on the CPU: mean score over each task's queries, accuracy in [0, 1]
    losses: torch.Tensor  # (tasks,) float64 on the CPU: query loss after adaptation, in nats
    record: Record | None = None  # step by step, where it was asked for; its last column is the above

    @property
    def mean(self) -> float:
        return float(self.scores.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the 95% interval of the mean over tasks, 1.96 σ / √tasks; NaN for a single task."""
        return half_width(self.scores)

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


def half_width(values: torch.Tensor) -> float:
    """Of the 95% interval of the mean of independent values (n,): 1.96 σ / √n; NaN for a single one."""
    return 1.96 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def evaluate(
    learner: MetaLearner,
    params: Params,
    sampler: Sampler,
    tasks: int,
    *,
    steps: int | None = None,
    batch: int = 20,
    batch_norm: str = "batch",
    record: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Adapt to `tasks` tasks of the sampler, always the same ones, and score their queries.

    Args:
        steps: inner steps; None for the algorithm's own.
        batch: tasks drawn at a time; changes memory, never the result.
        batch_norm: whose statistics normalise the queries, see meta.batch_norm.
        record: predict after every inner step, in the same pass, and keep it with each task's checksum.
        progress: called with the number of tasks done.
    Cost: one inner loop and one prediction per task, with record one per inner step; no session is open, so that each
        inner step's tape goes at once.
    """
    for name, value, least in (("tasks", tasks, 1), ("batch", batch, 1), ("steps", steps, 0)):
        if value is not None and not (isinstance(value, int) and value >= least):
            raise ValueError(f"evaluate: {name} must be an integer of {least} or more, got {value!r}")
    if record and steps is None:
        raise ValueError("evaluate: record=True needs to know the inner steps; give steps=0 or more")
    predict = normalisation.policy(batch_norm)

    def judged(params: Params, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
        prediction = predict(learner.model, params, task.support.x, task.query.x)
        score = learner.objective.score(prediction, task.query.y).mean()
        return score, learner.objective.query_loss(prediction, task.query.y)

    def result(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
        """Score and loss (predictions,), after the last step or after each."""
        if record:
            assert steps is not None
            adapted = learner.trajectory(params, task.support, steps)
        else:
            adapted = iter([learner.adapt(params, task.support, steps)])
        scores, losses = zip(*(judged(each, task) for each in adapted), strict=True)
        return torch.stack(scores), torch.stack(losses)

    results: list[tuple[torch.Tensor, torch.Tensor]] = []
    checksums: list[int] = []
    for first in range(0, tasks, batch):
        drawn = sampler.sample(0, range(first, min(first + batch, tasks)))
        with parts_from(first):
            results += learner.workers.map(result, drawn)
        if record:
            checksums += [task.checksum() for task in drawn]
        progress(len(results))
    scores, losses = (torch.stack(column).double().cpu() for column in zip(*results, strict=True))
    kept = Record(scores, losses, torch.tensor(checksums, device="cpu")) if record else None
    return Evaluation(scores[:, -1], losses[:, -1], kept)
