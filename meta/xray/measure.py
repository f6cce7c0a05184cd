"""Parts and estimates of the meta-gradient, measured over tasks: norms, cosines, bias, variance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from meta.estimators import Estimator
from meta.evaluate import half_width
from meta.learner import MetaLearner, Step
from meta.meta_batch import MetaBatch
from meta.parallel import Workers
from meta.xray.split import Split, Window, expect_unrolled, inner_steps_of, split, windows_of
from neo import pytree
from neo.typing import PyTree

__all__ = ["Interval", "NothingFinite", "Vectors", "XRay", "xray"]

Flat = list[torch.Tensor]  # a gradient, a leaf a layer: float64, of one dim


class NothingFinite(ValueError):
    """No task has a finite exact meta-gradient."""


class Interval(NamedTuple):
    """A mean over tasks with the half-width of its 95% interval (NaN for one task), and the tasks that it is over."""

    mean: float
    ci95: float
    tasks: int

    @property
    def low(self) -> float:
        return self.mean - self.ci95


@dataclass(frozen=True)
class Vectors:
    """One gradient, or part of one, a task: its products with itself and with the exact one. All float64, on the CPU.

    squared: (tasks, layers) ‖v‖².
    dot: (tasks, layers) ⟨v, exact⟩.
    """

    squared: torch.Tensor
    dot: torch.Tensor

    def norm(self, layer: int | None = None) -> float:
        """Root mean square over tasks of ‖v‖; layer None: of all together."""
        return math.sqrt(float(_of(self.squared, layer).mean()))


@dataclass(frozen=True)
class Estimated(Vectors):
    """An estimator's gradients, a task each, and what they are off by.

    error: (tasks, layers) ‖v − exact‖².
    mean_squared, mean_dot, mean_error: (layers,) the same products of the means over tasks: ‖v̄‖², ⟨v̄, mean of exact⟩
        and ‖v̄ − mean of exact‖².
    """

    error: torch.Tensor
    mean_squared: torch.Tensor
    mean_dot: torch.Tensor
    mean_error: torch.Tensor

    def variance(self) -> float:
        """Over tasks, summed over entries; NaN for one task."""
        return _spread(self.squared.sum(1), float(self.mean_squared.sum()))

    def error_variance(self) -> float:
        """The same of v − exact."""
        return _spread(self.error.sum(1), float(self.mean_error.sum()))


@dataclass(frozen=True)
class XRay:
    """What xray() found.

    layers: the names of the meta-parameters' tensors.
    inner_steps: of the loop.
    steps: the ranges of inner steps that the curvature is split into.
    parts: "first_order", then one for each of `steps`: they add up to the exact gradient, task by task.
    curvature: all curvature parts together.
    exact: of the exact gradient.
    estimates: name → an estimator, "truncated 2" for the last two steps.
    epsilon: of the numbers that the gradients were computed in.
    dropped: tasks whose exact gradient is not finite, which count nowhere else.
    """

    layers: list[str]
    entries: list[int]
    inner_steps: int
    steps: list[range]
    parts: list[Vectors]
    curvature: Vectors
    exact: Estimated
    estimates: dict[str, Estimated]
    epsilon: float
    dropped: int = 0

    @property
    def tasks(self) -> int:
        return len(self.exact.squared)

    @property
    def first_order(self) -> Estimated:
        return self.estimates["first_order"]

    def has_gradient(self, layer: int) -> bool:
        """Whether a layer's exact gradient is more than rounding, √epsilon of the whole; a bias before a batch norm has
        none."""
        return self.exact.norm(layer) > math.sqrt(self.epsilon) * self.exact.norm()

    def cosine(self, part: Vectors, layer: int | None = None) -> Interval:
        """Between a part or an estimate and the exact gradient: mean over tasks.

        Tasks whose exact gradient is 0, or whose other one is not finite, are left out; where the other one is 0 the
        cosine is 0. NaN for a layer without a gradient.
        """
        if layer is not None and not self.has_gradient(layer):
            return Interval(math.nan, math.nan, 0)
        exact, squared, dot = (_of(v, layer) for v in (self.exact.squared, part.squared, part.dot))
        scale = (exact * squared).sqrt()
        cosines = torch.where(squared == 0, torch.zeros_like(dot), dot / scale)[exact > 0]
        cosines = cosines[cosines.isfinite()].clamp(-1, 1)
        if not len(cosines):
            return Interval(math.nan, math.nan, 0)
        return Interval(float(cosines.mean()), half_width(cosines), len(cosines))

    def share(self, part: Vectors, layer: int | None = None) -> float:
        """Of the exact gradient: Σ ⟨part, exact⟩ / Σ ‖exact‖² over tasks. Those of all parts add up to 1; below 0: the
        part points against the exact gradient."""
        if layer is not None and not self.has_gradient(layer):
            return math.nan
        exact = float(_of(self.exact.squared, layer).sum())
        return float(_of(part.dot, layer).sum()) / exact if exact else math.nan


def xray(
    learner: MetaLearner,
    params: PyTree,
    tasks: Iterable[tuple[Step, Any]],
    *,
    state: PyTree = None,
    parts: int = 10,
    estimators: Mapping[str, Estimator] | None = None,
    workers: Workers | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> XRay:
    """Split the meta-gradient of each task, and compare estimators with the exact one on the same tasks.

    The exact one goes through the inner loop of the learner's own estimator, whatever that one approximates.

    Args:
        learner: MAML or one derived from it, or what else is Unrolled.
        params: its meta-parameters, in whose dtype all is computed; sums are float64.
        tasks: each with its Step, from whose seed is drawn what is random, the same for each estimator as far as they
            run the model in the same order. At least one.
        state: what the learner carries; None: what its init_state gives.
        parts: ranges of inner steps that the curvature is split into, at most; ≥ 1.
        estimators: compared besides first order and one truncation for each of the parts; a gradient of another inner
            loop (Implicit's has a proximity term) is held to the exact one of the learner's own.
        workers: how tasks run side by side; None: one after the other.
        progress: called with the number of tasks done.
    Raises: ValueError for a learner without an inner loop, one that cannot have one of the estimators, and one whose
        task_gradient does not go by the estimator that it is given; NothingFinite
        where no task has a finite exact gradient.
    Cost: a task's parts + 1 meta-gradients (split()) and one of each estimator; keeps two means of parameters' size for
        each of them, in float64.
    """
    unrolled = expect_unrolled(learner)
    state = learner.init_state(params) if state is None else state
    # A learner of each estimator, kept from task to task: how its draws are made is found out with the first.
    others = {
        name: MetaBatch(unrolled.with_estimator(one), state) for name, one in (estimators or {}).items()
    }
    kept: dict[int, tuple[Window, MetaBatch]] = {}
    collected = _Collected(params)

    def of_task(item: tuple[Step, Any]) -> tuple[Split, dict[str, PyTree]]:
        step, task = item
        steps = inner_steps_of(unrolled, step)

        def gradient(batch: MetaBatch) -> PyTree:
            return batch.alone(params, task, step).gradient

        def of_window(window: Window) -> PyTree:
            new = window, MetaBatch(unrolled.with_estimator(window), state)
            asked, batch = kept.setdefault(window.steps, new)
            found = gradient(batch)
            asked.expect_asked(type(learner).__name__, steps)
            return found

        found = split(of_window, windows_of(steps, parts), unrolled.estimator)
        return found, {name: gradient(batch) for name, batch in others.items()}

    # One task at a time on each worker, also where a run's meta-batches go through the kernels as one.
    for done, (found, estimates) in enumerate(
        Workers.each(workers or Workers(None), of_task, tasks), start=1
    ):
        collected.add(found, estimates)
        progress(done)
    return collected.result()


class _Collected:
    """Products of gradients, task by task, and means of gradients."""

    def __init__(self, params: PyTree) -> None:
        leaves, spec = pytree.flatten(params)
        self.layers = [".".join(map(str, path)) for path in spec.paths()]
        self.entries = [leaf.data.numel() for leaf in leaves]
        self.epsilon = max(torch.finfo(leaf.dtype).eps for leaf in leaves)
        self.steps: list[range] = []
        self.inner_steps = 0
        self.products: dict[str, list[tuple[torch.Tensor, ...]]] = {}
        self.means: dict[str, Flat] = {}
        self.tasks = self.dropped = 0

    def add(self, found: Split, others: Mapping[str, PyTree]) -> None:
        exact = _flat(found.exact)
        if not all(bool(leaf.isfinite().all()) for leaf in exact):
            self.dropped += 1
            return
        self.tasks += 1
        self.steps, self.inner_steps = found.steps, max(found.windows)
        first = _flat(found.first_order)
        whole = [a - b for a, b in zip(exact, first, strict=True)]
        for i, part in enumerate([found.first_order, *found.curvature]):
            self._measure(f"part {i}", _flat(part), exact)
        self._measure("curvature", whole, exact)
        estimates = {
            "first_order" if window == 0 else f"truncated {window}": gradient
            for window, gradient in found.windows.items()
            if window == 0 or window < self.inner_steps
        }
        for name, gradient in {"exact": found.exact, **estimates, **others}.items():
            self._estimate(name, _flat(gradient), exact)

    def result(self) -> XRay:
        if not self.tasks:
            raise NothingFinite(
                f"the exact meta-gradient is not finite on any of {self.dropped} tasks; there is nothing to split. Try "
                "fewer inner steps or a smaller algorithm.inner_lr."
            )
        names = [name for name in self.means if name != "exact"]
        return XRay(
            self.layers,
            self.entries,
            self.inner_steps,
            self.steps,
            [Vectors(*self._columns(f"part {i}")) for i in range(len(self.steps) + 1)],
            Vectors(*self._columns("curvature")),
            self._estimated("exact"),
            {name: self._estimated(name) for name in names},
            self.epsilon,
            self.dropped,
        )

    def _measure(self, name: str, value: Flat, exact: Flat, *more: torch.Tensor) -> None:
        row = (_dots(value, value), _dots(value, exact), *more)
        self.products.setdefault(name, []).append(row)

    def _estimate(self, name: str, value: Flat, exact: Flat) -> None:
        error = [a - b for a, b in zip(value, exact, strict=True)]
        self._measure(name, value, exact, _dots(error, error))
        mean = self.means.setdefault(name, [torch.zeros_like(leaf) for leaf in value])
        for total, leaf in zip(mean, value, strict=True):
            total += (leaf - total) / self.tasks

    def _columns(self, name: str) -> list[torch.Tensor]:
        return [torch.stack(column).cpu() for column in zip(*self.products[name], strict=True)]

    def _estimated(self, name: str) -> Estimated:
        mean, exact = self.means[name], self.means["exact"]
        error = [a - b for a, b in zip(mean, exact, strict=True)]
        products = (_dots(mean, mean), _dots(mean, exact), _dots(error, error))
        return Estimated(*self._columns(name), *(one.cpu() for one in products))


def _flat(tree: PyTree) -> Flat:
    return [torch.as_tensor(leaf.data).detach().double().reshape(-1) for leaf in pytree.leaves(tree)]


def _dots(one: Flat, other: Flat) -> torch.Tensor:
    return torch.stack([a @ b for a, b in zip(one, other, strict=True)])


def _of(columns: torch.Tensor, layer: int | None) -> torch.Tensor:
    return columns.sum(1) if layer is None else columns[:, layer]


def _spread(squared: torch.Tensor, of_mean: float) -> float:
    """The variance of vectors over tasks, summed over entries, from ‖v‖² (tasks,) and ‖v̄‖²."""
    tasks = len(squared)
    if tasks < 2:
        return math.nan
    spread = float(squared.sum()) - tasks * of_mean
    return (0.0 if spread < 0 else spread) / (tasks - 1)  # below 0 by rounding; NaN stays
