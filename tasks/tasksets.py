"""Any learn2learn Taskset as a source of tasks: learn2learn says what a task is, the seed says which one.

learn2learn draws from Python's global random numbers, in whatever state they are. Here each task is drawn with those
numbers seeded from (seed, part, iteration, slot) and put back afterwards, so that runs resume and compare as on our own
sources. learn2learn itself is not imported; whoever made the Taskset has done that.
"""

from __future__ import annotations

import hashlib
import operator
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from tasks.errors import DataError
from tasks.hashing import derive, stream
from tasks.task import Batch, Task

__all__ = ["TasksetSampler", "Tasksets"]

_RANDOM = threading.Lock()  # the global random numbers are one, whoever draws from them


class Tasksets:
    """A learn2learn Taskset for each part, as learn2learn.vision.benchmarks.get_tasksets gives them.

    Args:
        train, val, test: Tasksets (learn2learn 0.2) whose tasks have all their examples in one batch, support and
            query together; None for a part that nobody asks for.
        name: of the data, for results.
    """

    def __init__(
        self, train: Any = None, val: Any = None, test: Any = None, *, name: str = "learn2learn"
    ) -> None:
        given: Mapping[str, Any] = {"train": train, "val": val, "test": test}
        self.parts = {part: taskset for part, taskset in given.items() if taskset is not None}
        for part, taskset in self.parts.items():
            if not (hasattr(taskset, "sample_task_description") and hasattr(taskset, "get_task")):
                raise DataError(
                    f"Tasksets: {part} must be a learn2learn Taskset, got {type(taskset).__name__}; wrap a data set as "
                    "learn2learn.data.Taskset(dataset, task_transforms)."
                )
        self.name = name
        self.split = ", ".join(f"{part} {len(taskset.dataset)}" for part, taskset in self.parts.items())

    def sampler(self, part: str, **settings: Any) -> TasksetSampler:
        """The tasks of a part; see TasksetSampler for the settings."""
        if part not in self.parts:
            raise ValueError(
                f"Tasksets: there is no Taskset for {part}, only for {', '.join(self.parts) or 'nothing'}; give one."
            )
        return TasksetSampler(self.parts[part], part, stream(self.name, part), **settings)

    def describe(self) -> dict[str, Any]:
        """What a result must say about its tasks. The checksum is of how many examples each class of each part has."""
        counts = {
            part: sorted(
                (str(label), len(indices)) for label, indices in taskset.dataset.labels_to_indices.items()
            )
            for part, taskset in self.parts.items()
        }
        return {
            "dataset": self.name,
            "split": self.split,
            "checksum": hashlib.sha256(repr(counts).encode()).hexdigest(),
            "source": "learn2learn",
        }


class TasksetSampler:
    """Draws meta-batches from one Taskset: a task is a pure function of (seed, part, iteration, slot).

    Of integer labels, each class gives its first `shots` examples to the support set and all others to the query set,
    class by class, and labels become 0, 1, ... in their order; of float targets, the task's first `shots` examples are
    the support set. A Taskset of num_tasks tasks gives that many different ones, by slot and iteration at random.

    Args:
        part: "train", "val" or "test".
        key: of its random stream.
        shots: support examples of each class, or of a regression task, ≥ 1.
        seed: any integer.
        ways, queries: what tasks are expected to have; None for whatever they have.
    Raises: ValueError where tasks are of another size, or hold an example twice, which could be in both sets.
    Cost: learn2learn's Python for every example, one copy to the device a meta-batch.
    """

    def __init__(
        self,
        taskset: Any,
        part: str,
        key: int,
        *,
        shots: int,
        seed: int,
        ways: int | None = None,
        queries: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if operator.index(shots) < 1:
            raise ValueError(f"TasksetSampler: shots={shots} is too small; choose shots ≥ 1.")
        self.taskset, self.part, self.shots = taskset, part, operator.index(shots)
        self.device = torch.device(device)
        self._key = stream(key, operator.index(seed))
        first = self._draw(
            0, 0
        )  # now, so that a protocol that does not fit is known before anything is trained
        labels = first.query.y
        self.ways = None if labels.dtype.is_floating_point else int(labels.max()) + 1
        self.queries = len(labels) // (self.ways or 1)
        for name, wanted, has in (("ways", ways, self.ways), ("queries", queries, self.queries)):
            if wanted is not None and wanted != has:
                raise ValueError(
                    f"TasksetSampler: {name}={wanted} was asked for, but with shots={shots} the Taskset's tasks have "
                    f"{has}; change its transforms (NWays, KShots), or {name}."
                )

    @property
    def title(self) -> str:
        return f"{self.shots}-shot" if self.ways is None else f"{self.ways}-way {self.shots}-shot"

    @property
    def chance(self) -> float | None:
        """The accuracy of guessing; None for regression."""
        return None if self.ways is None else 1 / self.ways

    def sample(self, iteration: int, slots: int | Sequence[int]) -> Task:
        """The tasks of some slots of one iteration, stacked; slots: how many, or which."""
        numbers = range(slots) if isinstance(slots, int) else slots
        drawn = [self._draw(iteration, slot) for slot in numbers]

        def stacked(batches: list[Batch]) -> Batch:
            return Batch(torch.stack([b.x for b in batches]), torch.stack([b.y for b in batches])).to(
                self.device
            )

        return Task(stacked([task.support for task in drawn]), stacked([task.query for task in drawn]))

    def _draw(self, iteration: int, slot: int) -> Task:
        key = derive(derive(self._key, iteration), slot)
        if self.taskset.num_tasks > 0:  # one of so many, each with a key of its own
            key = derive(derive(self._key, -1), key % self.taskset.num_tasks)
        with _seeded(key):
            description = self.taskset.sample_task_description()
            x, y = self.taskset.get_task(description)
        indices = [one.index for one in description]
        if len(set(indices)) < len(indices):
            raise ValueError(
                "TasksetSampler: a task holds an example twice, which could be in its support and its query set; use "
                "KShots without replacement, of no more examples than a class has."
            )
        return self._divided(x, y)

    def _divided(self, x: torch.Tensor, y: torch.Tensor) -> Task:
        if y.dtype.is_floating_point:
            y = y.reshape(len(y), -1)
            support, query = torch.arange(len(y), device="cpu").split([self.shots, len(y) - self.shots])
        else:
            labels, y, counts = y.unique(return_inverse=True, return_counts=True)
            if int(counts.min()) != int(counts.max()) or int(counts.min()) <= self.shots:
                raise ValueError(
                    f"TasksetSampler: the classes of a task have {counts.tolist()} examples, expected as many of each, "
                    f"and more than shots={self.shots}; use KShots with k = shots + queries."
                )
            order = y.argsort(stable=True).view(len(labels), -1)  # a row a class, in the order of the task
            support, query = order[:, : self.shots].reshape(-1), order[:, self.shots :].reshape(-1)
        return Task(Batch(x[support], y[support]), Batch(x[query], y[query]))


@contextmanager
def _seeded(key: int) -> Iterator[None]:
    """The global random numbers of Python, numpy and torch as a function of key; afterwards as they were."""
    with _RANDOM:
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            random.seed(key)
            np.random.seed(key % 2**32)
            torch.manual_seed(key % 2**63)
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])
