"""Test tasks and what the adapted model made of them, one picture a family of tasks (config: task.picture)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

import neo
from meta import plots
from meta.algorithms import Distillation
from meta.evaluate import Sampler
from meta.problems import constant
from meta.reinforcement import PolicyGradient
from meta.trained import Trained
from tasks import Batch, EpisodeSampler, KortewegDeVriesSampler, Task
from tasks.korteweg_de_vries import T, X

__all__ = [
    "Picture",
    "characters",
    "classified",
    "completions",
    "distilled",
    "fits",
    "headed",
    "images",
    "paths",
    "waves",
]


class Picture(Protocol):
    """Draws the first tasks of a sampler into a file.

    path: of a PNG, which loggers are given; what meta.plots draws has a PDF and an SVG beside it.
    title: of the run: algorithm, model, data, kind of task.
    steps: inner steps of its evaluation, None for the algorithm's own.
    """

    def __call__(
        self, trained: Trained, sampler: Sampler, path: Path, *, title: str, steps: int | None
    ) -> None: ...


def characters(
    trained: Trained,
    sampler: Sampler,
    path: Path,
    *,
    title: str,
    steps: int | None,
    tasks: int = 2,
) -> None:
    """Classified drawings: support and queries of each class, right or wrong; 1 is ink. See plots.tasks."""
    pictured = list(classified(trained, sampler, steps, tasks))
    plots.tasks(pictured, path, title=headed(title, sampler, len(pictured)))


def images(
    trained: Trained,
    sampler: EpisodeSampler,
    path: Path,
    *,
    title: str,
    steps: int | None,
    tasks: int = 2,
) -> None:
    """The same of photographs and the like: 1 is light, and normalised channels are shown as they were before."""

    def shown(batch: Batch) -> Batch:
        return Batch(sampler.pixels(batch.x), batch.y)

    pictured = [
        (Task(shown(task.support), shown(task.query)), predicted)
        for task, predicted in classified(trained, sampler, steps, tasks)
    ]
    plots.tasks(pictured, path, title=headed(title, sampler, len(pictured)), ink=False)


def classified(
    trained: Trained, sampler: Sampler, steps: int | None, tasks: int
) -> Iterator[tuple[Task, torch.Tensor]]:
    """Test tasks with the labels predicted for their queries, (n,)."""
    for slot, task in enumerate(sampler.sample(0, tasks)):
        prediction = constant(trained.adapt(task.support, steps, slot)(task.query.x))
        yield task, prediction.argmax(1)


def headed(title: str, sampler: Sampler, tasks: int) -> str:
    part = {"train": "training"}.get(getattr(sampler, "part", "test"), "test")
    return f"{title}: {part} {'task' if tasks == 1 else 'tasks'} after adaptation"


def fits(
    trained: Trained,
    sampler: Sampler,
    path: Path,
    *,
    title: str,
    steps: int | None,
    tasks: int = 3,
    most: int = 5,
    averaged: int = 100,
) -> None:
    """Functions of one number: the fit before and after each gradient step. Finn et al. 2017, figures 2 and 3.

    Args:
        most: gradient steps drawn, or `steps` where that is more; where `steps` is None, those of the algorithm.
        averaged: tasks over which the error after each step is averaged.
    """
    drawn_steps = None if steps is None else max(most, steps)

    def after(slot: int, support: Any, x: torch.Tensor) -> list[torch.Tensor]:
        found = trained.adapt(support, drawn_steps, slot)
        return [constant(stage(x)) for stage in found.trajectory or (found,)]

    def error(prediction: torch.Tensor, task: Task) -> torch.Tensor:
        return torch.as_tensor(constant(trained.problem.query_loss(lambda x: prediction, task.query)[1]))

    drawn = []
    for slot, task in enumerate(sampler.sample(0, tasks)):
        low, high = float(task.query.x.min()), float(task.query.x.max())
        grid = torch.linspace(low, high, 200, device=task.query.x.device).unsqueeze(1)
        drawn.append((task, grid, after(slot, task.support, grid)))
    errors = [
        torch.stack([error(fit, task) for fit in after(slot, task.support, task.query.x)])
        for slot, task in enumerate(sampler.sample(0, averaged))
    ]
    plots.fits(drawn, torch.stack(errors).mean(0), path, title=title, error=trained.problem.metric.label)


def paths(
    trained: Trained,
    sampler: Sampler,
    path: Path,
    *,
    title: str,
    steps: int | None,
    tasks: int = 3,
    most: int = 3,
    episodes: int = 3,
) -> None:
    """Navigation: the ways that the policy takes before and after each gradient step. Finn et al. 2017, figure 4.

    Args:
        most: gradient steps drawn, or `steps` where that is more; where `steps` is None, those of the algorithm.
        episodes: drawn of each.
    """
    problem, drawn = trained.problem, []
    assert isinstance(problem, PolicyGradient)
    for slot, task in enumerate(sampler.sample(0, tasks)):
        found = trained.adapt(task.support, None if steps is None else max(most, steps), slot)
        world = replace(task.query, episodes=episodes)
        ways = []
        for stage in found.trajectory or (found,):
            with neo.nn.draws(slot):
                ways.append(problem.run(stage, world).observations)
        drawn.append((task.query.goal, ways))
    plots.paths(drawn, path, title=title)


def distilled(
    trained: Trained, sampler: Sampler, path: Path, *, title: str, steps: int | None, columns: int = 10
) -> None:
    """The images that networks are trained on, each from its least to its largest value, `columns` a row.

    Those that meta.Distillation has learned; of another algorithm the support set of the first test task.
    """
    learned: Any = trained.params
    if isinstance(trained.learner, Distillation):
        images, labels = learned["images"], trained.learner.labels(learned)
    else:
        support = sampler.sample(0, 1)[0].support
        images, labels = support.x, support.y
    pixels, names = constant(images)[:, 0], [str(label) for label in labels.tolist()]
    rows = [("", pixels[first : first + columns]) for first in range(0, len(pixels), columns)]
    plots.image_rows(rows, path, title=f"{title}: the images", columns=names[:columns], limits=None)


def completions(
    trained: Trained, sampler: Sampler, path: Path, *, title: str, steps: int | None, tasks: int = 6
) -> None:
    """Images of pixels (tasks.Completion): those that were known, the image made of them, and what it was."""
    drawn: Any = sampler
    side = math.isqrt(drawn.pixels)
    rows: dict[str, list[torch.Tensor]] = {"known": [], "completed": [], "true": []}
    for slot, task in enumerate(sampler.sample(0, tasks)):
        known, query = task.support, task.query
        x = torch.cat([known.x, query.x])
        fitted = constant(trained.adapt(known, steps, slot)(x))
        for name, places, values in (
            ("known", known.x, known.y),
            ("completed", x, fitted),
            ("true", x, torch.cat([known.y, query.y])),
        ):
            image = torch.full((side, side), math.nan)
            row, column = ((places + 1) * (side - 1) / 2).round().long().cpu().unbind(1)
            rows[name].append(image.index_put((row, column), values[:, 0].float().cpu()))
    plots.image_rows([*rows.items()], path, title=f"{title}: test tasks")


def waves(
    trained: Trained,
    sampler: KortewegDeVriesSampler,
    path: Path,
    *,
    title: str,
    steps: int | None,
    tasks: int = 4,
    pixels: int = 48,
) -> None:
    """Solitons: the start, what was made of it, and the exact solution; x from left to right, t upwards, 0 is black."""
    x, t = (torch.linspace(*ends, pixels, device=sampler.device) for ends in (X, T))
    grid = torch.cartesian_prod(t, x).flip(1).expand(tasks, -1, -1)
    drawn = sampler.solved(0, tasks, grid)
    rows: dict[str, list[torch.Tensor]] = {"before": [], "adapted": [], "exact": []}
    for slot, task in enumerate(sampler.sample(0, tasks)):
        before = trained.adapt(task.support, 0, slot)(drawn.x[slot])
        adapted = trained.adapt(task.support, steps, slot)(drawn.x[slot])
        for name, values in (("before", before), ("adapted", adapted), ("exact", drawn.y[slot])):
            rows[name].append(constant(values).view(pixels, pixels).flip(0))
    highest = float(drawn.y.max())
    plots.image_rows([*rows.items()], path, title=f"{title}: test tasks", limits=(0.0, highest))
