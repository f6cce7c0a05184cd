"""Tasks that are a pure function of (seed, split, iteration, slot): the keys that their numbers are drawn from."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from tasks.hashing import derive, stream, unit

__all__ = ["PARTS", "GeneratedTasks", "TaskStream", "at_least", "within"]

PARTS = ("train", "val", "test")


class GeneratedTasks:
    """What families of tasks without data have in common: a name, and the settings that say which family it is.

    The parts differ in the stream that their tasks are drawn from, and no two tasks are the same.
    """

    name: str
    split: str  # the settings, "arms=10"

    def describe(self) -> dict[str, Any]:
        """What a result must say about its tasks. The checksum is of the settings, there being no data."""
        return {
            "dataset": self.name,
            "split": self.split,
            "checksum": hashlib.sha256(self.split.encode()).hexdigest(),
            "source": "generated",
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.split})"


class Named(Protocol):
    """Of a source, what its streams depend on."""

    name: str
    split: str


class TaskStream:
    """What samplers of numbers have in common: support and query sizes, and a key for each task.

    Args:
        source: of whose name and split, with part and seed, the stream is made.
        part: "train", "val" or "test".
        shots, queries: examples of the support (≥ 1) and of the query set (≥ 1).
        seed: any integer.
    Raises: ValueError naming the argument.
    """

    def __init__(
        self,
        source: Named,
        part: str,
        *,
        shots: int,
        queries: int,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.owner = type(self).__name__
        if part not in PARTS:
            raise ValueError(f"{self.owner}: unknown part {part!r}; expected one of {', '.join(PARTS)}.")
        self.source: Any = source
        self.part = part
        self.shots = at_least(1, self.owner, "shots", shots)
        self.queries = at_least(1, self.owner, "queries", queries)
        self.seed, self.device = operator.index(seed), torch.device(device)
        self._key = stream(self.seed, source.name, source.split, part)

    @property
    def title(self) -> str:
        return f"{self.shots}-shot"

    def keys(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> torch.Tensor:
        """The key of each task, (slots,) int64; arguments as EpisodeSampler.sample has them."""
        if not isinstance(iteration, torch.Tensor):
            iteration = at_least(0, self.owner, "iteration", iteration)
        if isinstance(slots, Sequence):
            slots = torch.tensor(
                [at_least(0, self.owner, "slot", slot) for slot in slots], device=self.device
            )
        elif not isinstance(slots, torch.Tensor):
            slots = torch.arange(at_least(1, self.owner, "slots", slots), device=self.device)
        return derive(derive(self._key, iteration), slots)

    def units(self, keys: torch.Tensor, number: int, count: int) -> torch.Tensor:
        """(slots, count) float32 in [0, 1): the first words of stream `number` of each task."""
        return unit(derive(derive(keys, number)[:, None], torch.arange(count, device=self.device)))

    def __repr__(self) -> str:
        return f"{self.owner}({self.part}: {self.title}, {self.queries} queries, seed {self.seed}, {self.device})"


def within(bounds: tuple[float, float], fraction: torch.Tensor) -> torch.Tensor:
    low, high = bounds
    return low + (high - low) * fraction


def at_least(least: int, owner: str, name: str, value: int) -> int:
    """value, an integer of `least` or more. Raises: ValueError naming it."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{owner}: {name}={value!r} must be an integer.") from None
    if number < least:
        raise ValueError(f"{owner}: {name}={value} is too small; choose {name} ≥ {least}.")
    return number
