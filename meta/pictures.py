"""Test tasks and what the adapted model made of them, one picture a family of tasks (config: task.picture)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from meta import plots
from meta.algorithms import MetaLearner
from meta.evaluate import Sampler
from neo.typing import PyTree

__all__ = ["Picture", "characters", "fits"]


class Picture(Protocol):
    """Draws the first tasks of a sampler into a file. title: of the run; steps: inner steps of its evaluation."""

    def __call__(
        self, learner: MetaLearner, params: PyTree, sampler: Sampler, path: Path, *, title: str, steps: int
    ) -> None: ...


def characters(
    learner: MetaLearner,
    params: PyTree,
    sampler: Sampler,
    path: Path,
    *,
    title: str,
    steps: int,
    tasks: int = 2,
) -> None:
    """Classified images: support and queries of each class, right or wrong. See plots.tasks."""
    pictured = []
    for task in sampler.sample(0, tasks):
        prediction = learner.model(learner.adapt(params, task.support, steps), task.query.x)
        pictured.append((task, prediction.data.argmax(1)))
    plots.tasks(pictured, path, title=f"{title}: test tasks after adaptation")


def fits(
    learner: MetaLearner,
    params: PyTree,
    sampler: Sampler,
    path: Path,
    *,
    title: str,
    steps: int,
    tasks: int = 3,
    most: int = 5,
    averaged: int = 100,
) -> None:
    """Functions of one number: the fit before and after each gradient step. Finn et al. 2017, figures 2 and 3.

    Args:
        most: gradient steps drawn, or `steps` where that is more.
        averaged: tasks over which the error after each step is averaged.
    """
    most = max(most, steps)

    def after(support, x: torch.Tensor) -> list[torch.Tensor]:
        return [learner.model(learner.adapt(params, support, k), x).data for k in range(most + 1)]

    drawn = []
    for task in sampler.sample(0, tasks):
        low, high = float(task.query.x.min()), float(task.query.x.max())
        grid = torch.linspace(low, high, 200, device=task.query.x.device).unsqueeze(1)
        drawn.append((task, grid, after(task.support, grid)))
    errors = [
        torch.stack(
            [learner.objective.score(fit, task.query.y).mean() for fit in after(task.support, task.query.x)]
        )
        for task in sampler.sample(0, averaged)
    ]
    plots.fits(drawn, torch.stack(errors).mean(0), path, title=title, error=learner.objective.metric.label)
