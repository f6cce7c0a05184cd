"""A plain Python function as a family of tasks: (generator) -> Task; the seed says which task."""

from __future__ import annotations

import hashlib
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tasks.errors import DataError
from tasks.hashing import derive, stream
from tasks.task import Batch, Task

__all__ = ["FunctionSampler", "FunctionTasks"]

MakeTask = Callable[..., Task]


class FunctionTasks:
    """Tasks that a function draws: function(generator, **options) → a Task of sets (n, ...) without a leading axis.

    Args:
        function: draws from the generator (torch.Generator, on the CPU) and from nothing else. Where it has an argument
            `part`, it is told "train", "val" or "test"; without, parts differ in their random numbers alone.
        options: its further arguments.
        name: of the family, for results; by default the function's.
    Raises: DataError for what is no function; ValueError for options that it does not take.
    """

    split = "by generator"

    def __init__(
        self, function: MakeTask, *, options: Mapping[str, Any] | None = None, name: str | None = None
    ) -> None:
        if not callable(function):
            raise DataError(
                f"FunctionTasks: expected a function (generator) -> tasks.Task, got {type(function).__name__}."
            )
        self.function, self.options = function, dict(options or {})
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        taken = inspect.signature(function).parameters
        self._told_part = "part" in taken
        unknown = [one for one in self.options if one not in taken]
        if unknown and not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
            raise ValueError(
                f"FunctionTasks: {self.name} has no argument {', '.join(unknown)}; it takes {', '.join(taken)}."
            )

    def sampler(self, part: str, *, seed: int, device: str | torch.device = "cpu") -> FunctionSampler:
        """The tasks of a part."""
        if part not in ("train", "val", "test"):
            raise ValueError(f"FunctionTasks: unknown part {part!r}; expected train, val or test.")
        return FunctionSampler(self, part, operator.index(seed), torch.device(device))

    def draw(self, part: str, key: int) -> Task:
        """The task of a key. Raises: ValueError where the function gives no single Task."""
        generator = torch.Generator("cpu")
        generator.manual_seed(key % 2**63)
        told = {"part": part} if self._told_part else {}
        task = self.function(generator, **self.options, **told)
        if not isinstance(task, Task) or task.batched:
            what = "a meta-batch" if isinstance(task, Task) else type(task).__name__
            raise ValueError(
                f"FunctionTasks: {self.name} gave {what}; expected one tasks.Task(Batch(x, y), Batch(x, y)), x "
                "(n, ...) and y (n,) or, of numbers, (n, outputs)."
            )
        return task

    def describe(self) -> dict[str, Any]:
        """What a result must say about its tasks. The checksum is of options and source, where Python finds it."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):
            source = self.name
        return {
            "dataset": self.name,
            "split": self.split,
            "checksum": hashlib.sha256(f"{sorted(self.options.items())}\n{source}".encode()).hexdigest(),
            "source": "a function",
        }


class FunctionSampler:
    """Draws meta-batches: a task is a pure function of (seed, part, iteration, slot), as long as the function is one.

    Raises: ValueError where the function gives no Task, or tasks of one meta-batch in different shapes.
    Cost: one call of the function a task, and one copy to the device a meta-batch.
    """

    chance = None

    def __init__(self, source: FunctionTasks, part: str, seed: int, device: torch.device) -> None:
        self.part, self.device, self.title = part, device, source.name
        self._source, self._key = source, stream(seed, source.name, part)
        self.sample(0, 1)  # now, so that what does not fit is known before anything is trained

    def sample(self, iteration: int, slots: int | Sequence[int]) -> Task:
        """The tasks of some slots of one iteration, stacked; slots: how many, or which."""
        key = derive(self._key, operator.index(iteration))
        numbers = range(slots) if isinstance(slots, int) else slots
        drawn = [self._source.draw(self.part, derive(key, operator.index(slot))) for slot in numbers]

        def stacked(batches: list[Batch]) -> Batch:
            shapes = sorted({(tuple(batch.x.shape), tuple(batch.y.shape)) for batch in batches})
            if len(shapes) > 1:
                raise ValueError(
                    f"FunctionTasks: the tasks of a meta-batch must have one shape, and {self.title} gave x and y of "
                    f"{shapes[0]} and of {shapes[-1]}; draw as many examples for each task."
                )
            x, y = torch.stack([one.x for one in batches]), torch.stack([one.y for one in batches])
            return Batch(x, y).to(self.device)

        return Task(stacked([task.support for task in drawn]), stacked([task.query for task in drawn]))
