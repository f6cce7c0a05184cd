"""A budget of memory: the fastest way to a meta-step that stays below it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from meta.distributed import ALONE, Ranks
from meta.machine import resolve_device, resolve_workers
from meta.planning.foretelling import Plan, plan
from meta.planning.rows import Row, Segments
from meta.sizes import format_size, parse_size

__all__ = ["Choice", "choose", "settled", "settled_as_before"]

MARGIN = 0.1  # by which a peak may come out higher than it was foretold
SETTLED = ("algorithm.meta_gradient", "algorithm.mixed_segment", "workers")


@dataclass(frozen=True)
class Choice:
    """An estimator, and how many tasks run side by side, for a plan's inner steps."""

    plan: Plan
    row: Row
    workers: int

    @property
    def steps(self) -> int:
        return self.plan.steps or 0

    @property
    def peak(self) -> float:
        return self.plan.peak(self.row, self.steps, self.workers)

    @property
    def seconds(self) -> float:
        return self.plan.seconds(self.row, self.steps, self.workers)

    @property
    def values(self) -> dict[str, Any]:
        """Dotted key → value, of what differs from the configuration that was planned, or might."""
        settings = {} if self.plan.steps is None else self.row.settings_at(self.steps)
        kept = {f"algorithm.{key}": value for key, value in settings.items()} if self.row.choosable else {}
        return {**kept, **({"workers": self.workers} if self.plan.has_workers else {})}

    def __str__(self) -> str:
        beside = (
            f", {self.workers} task{'s' if self.workers > 1 else ''} at a time"
            if self.plan.has_workers
            else ""
        )
        return f"{self.row.title_at(self.steps)}{beside}"


def choose(found: Plan, budget: int, what: str = "memory") -> Choice:
    """The fastest way that stays below a budget of bytes: by an exact estimator, unless the plan's own is approximate.

    That one is then kept, and only the number of tasks side by side is chosen. Of the ways with equally many the first
    of reverse, mixed and mixed in segments is taken that fits, for each costs more time than the one before; those with
    more and with fewer are compared by their times. A peak is taken for a tenth more than it was foretold.
    Raises: ValueError where nothing stays below, saying how much is needed, and by what.
    """
    ways = list(_ways(found))
    fitting: dict[int, Choice] = {}  # by tasks side by side, more of them first
    for way in ways:
        if way.peak * (1 + MARGIN) <= budget:
            fitting.setdefault(way.workers, way)
    if not fitting:
        least = min(ways, key=lambda way: way.peak)
        parts = found.parts()
        there = {name: parts[name] for name in ("process", "data", "parameters", "optimiser")}
        said = ", ".join(f"{name} {format_size(size)}" for name, size in there.items())
        raise ValueError(
            f"{what}={format_size(budget)} is not enough: the least is with {least}, foretold "
            f"{format_size(least.peak)}, for which {what} must be {format_size(least.peak * (1 + MARGIN) + 1e6)} or "
            f"more. What is there before the first task: {said}."
        )
    return min(fitting.values(), key=lambda way: way.seconds)


def _ways(found: Plan) -> Iterator[Choice]:
    """Tasks side by side as configured, then fewer; of each the configuration's own estimator, then those that take
    less memory and more time."""
    rows = [found.own]
    if found.own.exact and not isinstance(found.own, Segments):
        rows += [row for row in found.rows[1:] if row.exact and row.name == "mixed" and not row.refused]
    for workers in range(found.workers, 0, -1):
        yield from (Choice(found, row, workers) for row in rows)


def settled(config: DictConfig, ranks: Ranks = ALONE) -> tuple[DictConfig, str]:
    """A configuration whose trainer.memory is kept, and what was chosen for that, in words; itself, "" without one.

    Raises: ValueError for what is no amount of memory, or too little; what meta.planning.plan raises.
    """
    if config.trainer.get("memory") is None:
        return config, ""
    budget = parse_size(config.trainer.memory, "trainer.memory")
    planned: Any = config.copy()
    workers = resolve_workers(config.workers, ranks.device(resolve_device(config.device)), ranks)
    planned.workers = workers or "auto"
    choice = choose(plan(planned, exact_only=True), budget, "trainer.memory")
    changed: Any = config.copy()
    for key, value in choice.values.items():
        OmegaConf.update(changed, key, value)
    return changed, (
        f"memory  {config.trainer.memory} at most: {choice}; foretold {format_size(choice.peak)}, "
        f"{choice.seconds:.2g} s a meta-step"
    )


def settled_as_before(config: DictConfig, composed: Any) -> DictConfig:
    """A configuration with what an earlier run of it has chosen for trainer.memory. composed: of that run."""
    if config.trainer.get("memory") is None:
        return config
    changed: Any = config.copy()
    before = OmegaConf.create(composed)
    for key in SETTLED:
        if OmegaConf.select(changed, key, default=before) is not before:
            OmegaConf.update(changed, key, OmegaConf.select(before, key))
    return changed
