"""Tasks of varied ways and shots, as Meta-Dataset draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from tasks.hashing import derive, fraction
from tasks.sampler import ROTATIONS, ClassedImages, EpisodeSampler
from tasks.task import Batch, Task

__all__ = ["VariedSampler", "drawn_sizes"]

LEAST_WAYS = 5
SUPPORT, SUPPORT_PER_CLASS = 500, 100  # images: of a support set, and what a class adds to its size, at most


class VariedSampler(EpisodeSampler):
    """Each task has ways, shots and queries of its own, and each class of it other shots.

    Triantafillou et al. 2020, arXiv:1903.03096, section 3.2: between five and `ways` classes, uniformly; of each, as
    many queries, half of the smallest class's images at most; a support set of up to 500 images, of which larger
    classes get more. A task is a pure function of (seed, split, iteration, slot), as EpisodeSampler's are.

    Args:
        ways: the most (the paper's 50); where there are fewer classes, all of them. The least is five, or `ways`.
        shots: the least of each class (the paper's 1).
        queries: the most of each class (the paper's 10).
        settings: further arguments of EpisodeSampler.
    Raises: as EpisodeSampler; ValueError naming the classes that have fewer than 2 · shots images.
    Cost: one gather a task, which waits for the device.
    """

    def __init__(
        self, dataset: ClassedImages, part: str, *, ways: int, rotations: bool = False, **settings: Any
    ) -> None:
        classes = len(dataset.parts.get(part, ())) * (ROTATIONS if rotations else 1)
        most = max(2, min(ways, classes))
        super().__init__(dataset, part, ways=most, rotations=rotations, **settings)
        self._sizes = dataset.pool(part).counts.tolist()

    @property
    def title(self) -> str:
        return f"{min(LEAST_WAYS, self.ways)}- to {self.ways}-way, varied shots"

    @property
    def chance(self) -> None:
        """Of guessing: none, for it is another one in each task."""
        return None

    def sample(self, iteration: Any, slots: Any) -> Any:
        """The tasks of some slots of one iteration, a list of Task, each without a leading axis."""
        numbers = range(slots) if isinstance(slots, int) else slots
        return [self._one(int(iteration), int(slot)) for slot in numbers]

    def draw(self, iteration: Any, slots: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Of one slot: classes (1, ways of its task) and the order of their images (1, ways, images of the largest).

        Raises: ValueError for several slots, whose tasks have other sizes.
        """
        slot, *more = self._slots(slots).tolist()
        if more:
            raise ValueError("VariedSampler: draw() takes one slot at a time, as draw(0, [slot]).")
        return self._of_slot(int(iteration), slot)[:2]

    def _of_slot(self, iteration: int, slot: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The classes of a task, the order of their images, the classes' keys."""
        self._iteration(iteration)  # refuses negative ones, as _slots does
        least = min(LEAST_WAYS, self.ways)
        ways = least + int(fraction(self._task_key(iteration, slot), 2) * (self.ways - least + 1))
        task_keys = derive(derive(self._key, iteration), self._slots([slot]))
        return self._ranked(task_keys, ways, len(self._image_numbers))

    def _task_key(self, iteration: int, slot: int) -> int:
        return derive(derive(self._key, iteration), slot)

    def _one(self, iteration: int, slot: int) -> Task:
        classes, images, class_keys = (one[0] for one in self._of_slot(iteration, slot))
        ways = len(classes)
        # Classes that are turned ones of the data have as many images.
        counts = [self._sizes[number % len(self._sizes)] for number in classes.tolist()]
        key = derive(self._task_key(iteration, slot), 3)
        uniform = [fraction(key, i) for i in range(ways + 1)]
        shots, queries = drawn_sizes(counts, uniform, self.shots, self.queries)

        def chosen(rows: torch.Tensor) -> torch.Tensor:
            support = [row[:count] for row, count in zip(rows, shots, strict=True)]
            query = [row[count : count + queries] for row, count in zip(rows, shots, strict=True)]
            return torch.cat(support + query)

        places = self._starts[classes].unsqueeze(-1) + images
        keys = chosen(self._image_keys(class_keys, images)) if self.augmentation else None
        x = self._gathered(chosen(places), keys)
        support_x, query_x = x.split([sum(shots), ways * queries])
        labels = self._class_numbers[:ways]
        support_y = labels.repeat_interleave(torch.tensor(shots, device=self.device))
        return Task(Batch(support_x, support_y), Batch(query_x, labels.repeat_interleave(queries)))

    def _images_needed(self) -> int:
        return 2 * self.shots  # for half of a class's images may be queries


def drawn_sizes(
    counts: Sequence[int], uniform: Sequence[float], least_shots: int, most_queries: int
) -> tuple[list[int], int]:
    """Shots of each class, and queries of every class, of a task with classes of `counts` images.

    q = min(most_queries, ⌊min n_c / 2⌋);  |S| = min(500, ⌈β Σ min(100, n_c − q)⌉), least_shots a class at least;
    k_c = min(⌊R_c (|S| − ways · least_shots)⌋ + least_shots, n_c − q),  R_c ∝ exp(α_c) n_c,  α_c in [log ½, log 2).

    uniform: numbers in [0, 1), of β and then of each α_c.
    """
    queries = min(most_queries, min(counts) // 2)
    room = sum(min(SUPPORT_PER_CLASS, count - queries) for count in counts)
    least = least_shots * len(counts)
    size = max(least, min(SUPPORT, math.ceil((1 - uniform[0]) * room)))
    weights = [count * 2 ** (2 * u - 1) for count, u in zip(counts, uniform[1:], strict=True)]
    shots = [
        min(int(weight / sum(weights) * (size - least)) + least_shots, count - queries)
        for weight, count in zip(weights, counts, strict=True)
    ]
    return shots, queries
