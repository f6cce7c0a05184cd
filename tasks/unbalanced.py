"""N-way K-shot tasks whose query sets have more images of some classes than of others."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch

from tasks.hashing import derive, fraction
from tasks.sampler import ClassedImages, EpisodeSampler
from tasks.task import Batch, Task

__all__ = ["UnbalancedSampler", "drawn_counts"]


class UnbalancedSampler(EpisodeSampler):
    """EpisodeSampler's tasks, classes and support sets, with queries shared out among the classes by a Dirichlet draw.

    p ~ Dir(α, …, α), and of the ways · queries images of a query set about p_c are of class c: Veilleux, Boudiaf,
    Piantanida, Ben Ayed 2021, arXiv:2204.11181 (α = 2 there). A class may have no query at all. A task is a pure
    function of (seed, split, iteration, slot).

    Args:
        dirichlet: α, a whole number ≥ 1; the larger, the more balanced.
        queries: of each class on average. A class that has too few images for its share gives it to others.
        settings: further arguments of EpisodeSampler.
    Raises: as EpisodeSampler; ValueError naming the argument.
    Cost: EpisodeSampler's, and a little Python a task; waits for the device.
    """

    def __init__(self, dataset: ClassedImages, part: str, *, dirichlet: int, **settings: Any) -> None:
        super().__init__(dataset, part, **settings)
        if isinstance(dirichlet, float) or operator.index(dirichlet) < 1:
            raise ValueError(f"UnbalancedSampler: dirichlet={dirichlet} must be a whole number of 1 or more.")
        self.dirichlet = operator.index(dirichlet)
        self._sizes = dataset.pool(part).counts.tolist()

    @property
    def title(self) -> str:
        return f"{super().title}, unbalanced queries"

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; as EpisodeSampler.sample, but for the queries' labels."""
        number = int(self._iteration(iteration))
        chosen = self._slots(slots)
        task_keys = derive(derive(self._key, number), chosen)
        most = len(self._image_numbers)
        classes, images, class_keys = self._ranked(task_keys, self.ways, most)
        counts = self._counts_of(
            classes, [derive(derive(self._key, number), slot) for slot in chosen.tolist()]
        )
        place = torch.arange(most, device=self.device)
        asked = (place >= self.shots) & (place < self.shots + counts[..., None])
        places = self._starts[classes].unsqueeze(-1) + images

        def parts(drawn: torch.Tensor) -> torch.Tensor:
            return torch.cat([drawn[..., : self.shots].reshape(-1), drawn[asked]])

        keys = parts(self._image_keys(class_keys, images)) if self.augmentation else None
        x = self._gathered(parts(places), keys)
        support_x, query_x = x.split([classes.numel() * self.shots, classes.numel() * self.queries])
        tasks = len(classes)
        labels = self._class_numbers[: self.ways, None].expand(asked.shape)[asked]
        return Task(
            Batch(support_x.view(tasks, -1, *self._item), self._support_y.repeat(tasks, 1)),
            Batch(query_x.view(tasks, -1, *self._item), labels.view(tasks, -1)),
            classes,
        )

    def _counts_of(self, classes: torch.Tensor, keys: Sequence[int]) -> torch.Tensor:
        """Queries of each class of each task, (slots, ways) int64."""
        found = []
        for key, row in zip(keys, classes.tolist(), strict=True):
            # A gamma variate of a whole α is a sum of exponential ones.
            class_keys = [derive(derive(key, 2), label) for label in range(len(row))]
            shares = [
                -sum(math.log1p(-fraction(own, i)) for i in range(self.dirichlet)) for own in class_keys
            ]
            room = [
                self._sizes[number % len(self._sizes)] - self.shots for number in row
            ]  # turned classes have as many
            found.append(drawn_counts(shares, self.ways * self.queries, room))
        return torch.tensor(found, device=self.device)


def drawn_counts(shares: Sequence[float], total: int, room: Sequence[int]) -> list[int]:
    """`total` shared out in proportion to shares, by largest remainders, and no more than there is room for.

    Raises: ValueError where there is not enough room.
    """
    if sum(room) < total:
        raise ValueError(
            f"UnbalancedSampler: {total} queries are more than the {sum(room)} images that are left."
        )
    whole = sum(shares)
    ideal = [total * share / whole if whole > 0 else total / len(shares) for share in shares]
    counts = [min(int(one), most) for one, most in zip(ideal, room, strict=True)]
    order = sorted(range(len(shares)), key=lambda i: (int(ideal[i]) - ideal[i], i))
    while sum(counts) < total:
        for i in order:
            if counts[i] < room[i] and sum(counts) < total:
                counts[i] += 1
    return counts
