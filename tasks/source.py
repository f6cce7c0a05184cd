"""What a family of tasks supplies, for a run to know nothing more of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from tasks.task import Task

__all__ = ["TaskSampler", "TaskSource"]


class TaskSampler(Protocol):
    """The tasks of one part of a source: a pure function of (iteration, slot)."""

    @property
    def part(self) -> str:
        """Which one: "train", "val" or "test"."""

    @property
    def title(self) -> str:
        """What kind of task it is, for people: "5-way 1-shot"."""

    @property
    def chance(self) -> float | None:
        """The score of predicting without having learned anything; None where there is no such number."""

    def sample(self, iteration: int, slots: int | Sequence[int]) -> Task: ...


class TaskSource(Protocol):
    """Where tasks come from: a data set with its split, or a generator."""

    name: str  # "omniglot"
    split: str  # how it is divided into "train", "val" and "test"

    def sampler(
        self, part: str, *, seed: int, device: str | torch.device = "cpu", **settings: Any
    ) -> TaskSampler:
        """The tasks of a part ("train", "val" or "test"); settings: what the family has, as ways, shots, queries."""

    def describe(self) -> dict[str, Any]:
        """What a result must say about it, plain: dataset, split and checksum tell whether two runs share tasks."""
