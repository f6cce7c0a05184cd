"""Images as functions of two numbers, to be completed from some pixels. Garnelo et al. 2018, arXiv:1807.01613."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tasks.dataset import CharacterSet
from tasks.hashing import derive
from tasks.streams import TaskStream
from tasks.task import Batch, Task

__all__ = ["Completion", "CompletionSampler"]


class Completion:
    """A task is one grey image, a function from places to intensities: x (row, column) in ±1, y in [0, 1].

    Args:
        images: whose images, with its split: a task's image is of a class of its part. Square, one channel.
    Raises: ValueError for images of another kind.
    """

    def __init__(self, images: CharacterSet) -> None:
        shape = images.images.shape[2:]
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(
                f"Completion: the images of {images.name} must be square and of one channel, got {tuple(shape)}."
            )
        self.images = images
        self.name, self.split = f"completion of {images.name}", images.split

    def sampler(
        self,
        part: str,
        *,
        seed: int,
        shots: int | None,
        queries: int | None,
        device: str | torch.device = "cpu",
    ) -> CompletionSampler:
        """The images of a part ("train", "val" or "test"); see CompletionSampler."""
        return CompletionSampler(self, part, shots=shots, queries=queries, seed=seed, device=device)

    def describe(self) -> dict[str, Any]:
        """What a result must say about its data: that of the images."""
        return {**self.images.describe(), "dataset": self.name}

    def __repr__(self) -> str:
        return f"Completion({self.images!r})"


class CompletionSampler(TaskStream):
    """Draws meta-batches of images: a pure function of (seed, split, iteration, slot).

    Args:
        shots: pixels that are known, ≥ 1, drawn without replacement; None: all of them.
        queries: pixels to be predicted, ≥ 1, others than the known ones; None: all others, or with all known all.
        others: as tasks.streams.TaskStream has them.
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, source: Completion, part: str, *, shots: int | None, queries: int | None, **settings: Any
    ) -> None:
        images = source.images.images
        self.pixels = images[0, 0].numel()
        self.whole = shots is None
        known = self.pixels if shots is None else shots
        asked = (self.pixels if self.whole else self.pixels - known) if queries is None else queries
        super().__init__(source, part, shots=known, queries=asked, **settings)
        if self.queries + (0 if self.whole else self.shots) > self.pixels:
            raise ValueError(
                f"CompletionSampler: shots={shots} and queries={queries} are more than the {self.pixels} pixels of an "
                "image; choose fewer, or queries=null for all others."
            )
        chosen = images[source.images.parts[part]].to(self.device)
        self._rows = chosen.reshape(-1, self.pixels)
        place = torch.linspace(-1, 1, chosen.shape[-1], device=self.device)
        self._places = torch.cartesian_prod(place, place)

    chance = None

    @property
    def title(self) -> str:
        return f"{self.shots} of {self.pixels} pixels"

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; arguments as EpisodeSampler.sample has them.

        Returns: support.x (slots, shots, 2) float32, support.y (slots, shots, 1), query likewise with queries.
        """
        keys = self.keys(iteration, slots)
        image = (derive(keys, 0) >> 1 & 0x7FFFFFFFFFFF) % len(self._rows)
        words = derive(derive(keys, 1)[:, None], torch.arange(self.pixels, device=self.device))
        order = words.argsort(1)
        known = order[:, : self.shots]
        asked = order[:, : self.queries] if self.whole else order[:, self.shots : self.shots + self.queries]
        return Task(self._batch(image, known), self._batch(image, asked))

    def _batch(self, image: torch.Tensor, pixels: torch.Tensor) -> Batch:
        values = self._rows[image[:, None], pixels].to(torch.float32) / 255
        return Batch(self._places[pixels], values[..., None])
