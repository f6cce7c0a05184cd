"""Adapt on unseen tasks and measure: mean, 95% interval, every task's result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from meta.algorithms.base import MetaLearner
from neo.typing import Params
from tasks import Task

__all__ = ["Evaluation", "evaluate"]


class Sampler(Protocol):
    """Where tasks come from: a pure function of (iteration, slot)."""

    def sample(self, iteration: int, slots: int | Sequence[int]) -> Task: ...


@dataclass(frozen=True)
class Evaluation:
    """Results over tasks."""

    scores: (
        torch.Tensor
    )  # (tasks,) float64 on the CPU: mean score over each task's queries, accuracy in [0, 1]
    losses: torch.Tensor  # (tasks,) float64 on the CPU: query loss after adaptation, in nats

    @property
    def mean(self) -> float:
        return float(self.scores.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the 95% interval of the mean over tasks, 1.96 σ / √tasks; NaN for a single task."""
        return 1.96 * float(self.scores.std()) / math.sqrt(len(self.scores))

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


def evaluate(
    learner: MetaLearner,
    params: Params,
    sampler: Sampler,
    tasks: int,
    *,
    steps: int | None = None,
    batch: int = 20,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Adapt to `tasks` tasks of the sampler, always the same ones, and score their queries.

    Args:
        steps: inner steps; None for the algorithm's own.
        batch: tasks drawn at a time; changes memory, never the result.
        progress: called with the number of tasks done.
    Cost: one inner loop and one prediction per task; no session is open, so that each inner step's tape goes at once.
    """
    if tasks < 1:
        raise ValueError(f"evaluate: tasks must be at least 1, got {tasks}")

    def result(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
        prediction = learner.model(learner.adapt(params, task.support, steps), task.query.x)
        prediction = getattr(prediction, "data", prediction)
        score = learner.objective.score(prediction, task.query.y).mean()
        return score, learner.objective.query_loss(prediction, task.query.y)

    results: list[tuple[torch.Tensor, torch.Tensor]] = []
    for first in range(0, tasks, batch):
        drawn = sampler.sample(0, range(first, min(first + batch, tasks)))
        results += learner.workers.map(result, drawn)
        progress(len(results))
    scores, losses = (torch.stack(column).double().cpu() for column in zip(*results, strict=True))
    return Evaluation(scores, losses)
