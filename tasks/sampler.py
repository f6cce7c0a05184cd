"""N-way K-shot tasks, drawn on the device as a pure function of (seed, split, iteration, slot)."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from tasks.hashing import derive, stream
from tasks.task import Batch, Task

ROTATIONS = 4  # by 0, 90, 180 and 270 degrees


class CharacterImages(Protocol):
    """What a sampler reads of a data set; tasks.CharacterSet says what each is."""

    name: str
    split: str
    images: torch.Tensor
    names: Sequence[str]
    parts: Mapping[str, torch.Tensor]


class EpisodeSampler:
    """Draws meta-batches of tasks from one part of a character set.

    A class is a character in one rotation by a multiple of 90 degrees (`rotations=False`: upright only), so each class
    of a task has a rotation of its own and a character may come twice, rotated differently (Santoro et al. 2016,
    arXiv:1605.06065; Finn et al. 2017). In a task the classes are `ways` different ones, class j has label j, and its
    shots + queries images are all different, the first `shots` of them the support set.

    **A task is a pure function of (seed, split, iteration, slot)**, whatever else is drawn, before or beside it, and on
    whatever device: every class (and image) gets a word of a counter-based hash, and the largest words win. So the
    classes of a 5-way task are the first five of the 20-way task in its place.

    Args:
        part: "train", "val" or "test": the characters to draw from.
        ways, shots, queries: classes in a task (≥ 2), support images (≥ 1) and query images (≥ 1) of each class.
        seed: any integer.
        device: where the images live, as uint8, once per rotation: 69 MB for 1100 characters of 20 images of 28x28.
    Raises: ValueError naming the argument, at construction and in sample().
    """

    def __init__(
        self,
        dataset: CharacterImages,
        part: str,
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int,
        rotations: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        if part not in dataset.parts:
            raise ValueError(
                f"EpisodeSampler: unknown part {part!r} of {dataset.name}; expected one of {', '.join(dataset.parts)}."
            )
        self.dataset, self.part, self.rotations = dataset, part, rotations
        self.ways = _at_least(2, "ways", ways)
        self.shots = _at_least(1, "shots", shots)
        self.queries = _at_least(1, "queries", queries)
        self.seed = _integer("seed", seed)
        self.device = _device(device)

        self._characters = dataset.parts[part]
        self._rotations = ROTATIONS if rotations else 1
        self._images_per_class = dataset.images.shape[1]
        self._check_supply()

        # Class number = rotation * characters + character; a row is one image of one class.
        upright = dataset.images[self._characters].to(self.device)
        rotated = torch.stack([torch.rot90(upright, k, dims=(-2, -1)) for k in range(self._rotations)])
        self._item = tuple(rotated.shape[3:]) if rotated.ndim == 6 else (1, *rotated.shape[-2:])
        self._rows = rotated.reshape(self.classes * self._images_per_class, -1)
        self._class_numbers = torch.arange(self.classes, device=self.device)
        self._image_numbers = torch.arange(self._images_per_class, device=self.device)
        self._support_y = self._class_numbers[: self.ways].repeat_interleave(self.shots)
        self._query_y = self._class_numbers[: self.ways].repeat_interleave(self.queries)
        self._key = stream(self.seed, dataset.name, dataset.split, part)

    @property
    def classes(self) -> int:
        """How many classes there are to draw from: characters x rotations."""
        return len(self._characters) * self._rotations

    @property
    def title(self) -> str:
        return f"{self.ways}-way {self.shots}-shot"

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / self.ways

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked.

        iteration: ≥ 0; or an int64 tensor of shape () on the device, which a captured CUDA graph can count up.
        slots: how many, meaning slots 0, 1, ...; or the slot numbers themselves, ≥ 0 (a list is copied to the device).
            A tensor's values are not checked: looking at them would wait for the device.
        Returns: support.x (slots, ways*shots, channels, height, width) float32 in [0, 1], support.y (slots, ways*shots)
            int64 in [0, ways), query likewise; both class by class: label 0 first, then label 1. classes (slots, ways):
            which of self.classes each label is.
        Cost: one hash of every class per slot, one gather of the images; no synchronisation with the device.
        """
        classes, images = self.draw(iteration, slots)
        rows = classes.unsqueeze(-1) * self._images_per_class + images
        # Support rows first, query rows behind: one gather, of which both sets are contiguous pieces.
        support, query = rows.split([self.shots, self.queries], dim=-1)
        chosen = torch.cat([support.reshape(-1), query.reshape(-1)])
        pixels = self._rows.index_select(0, chosen).to(torch.float32).div_(255)
        support_x, query_x = pixels.split([support.numel(), query.numel()])

        tasks = len(classes)
        return Task(
            support=Batch(support_x.view(tasks, -1, *self._item), self._support_y.repeat(tasks, 1)),
            query=Batch(query_x.view(tasks, -1, *self._item), self._query_y.repeat(tasks, 1)),
            classes=classes,
        )

    def draw(
        self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What sample() gathers: classes (slots, ways) and images (slots, ways, shots + queries), int64.

        classes: numbers in [0, self.classes), by label; class_name() says which they are.
        images: numbers of the class's images, the support set's first.
        """
        iteration_key = derive(self._key, self._iteration(iteration))
        task_keys = derive(iteration_key, self._slots(slots))
        class_words = derive(derive(task_keys, 0).unsqueeze(-1), self._class_numbers)
        classes = class_words.topk(self.ways).indices  # words of one stream never tie
        class_keys = derive(derive(task_keys, 1).unsqueeze(-1), classes)
        image_words = derive(class_keys.unsqueeze(-1), self._image_numbers)
        return classes, image_words.topk(self.shots + self.queries).indices

    def class_name(self, number: int) -> str:
        """Of a class number of draw(): "Alphabet/character01", and "rot90" and so on behind it when rotated."""
        rotation, position = divmod(number, len(self._characters))
        name = self.dataset.names[int(self._characters[position])]
        return f"{name} rot{90 * rotation}" if rotation else name

    def __repr__(self) -> str:
        return (
            f"EpisodeSampler({self.dataset.name}, {self.part}: {self.ways}-way of {self.classes} classes, "
            f"{self.shots}-shot, {self.queries} queries, seed {self.seed}, {self.device})"
        )

    def _check_supply(self) -> None:
        if self.ways > self.classes:
            supply = f"{len(self._characters)} characters x {self._rotations} rotations"
            raise ValueError(
                f"EpisodeSampler: ways={self.ways} is more than the {self.classes} classes of {self.dataset.name} "
                f"{self.part} ({supply}); choose ways from 2 to {self.classes}."
            )
        if self.shots + self.queries > self._images_per_class:
            raise ValueError(
                f"EpisodeSampler: shots={self.shots} and queries={self.queries} need {self.shots + self.queries} "
                f"images of each class, and {self.dataset.name} has {self._images_per_class}; "
                f"choose shots + queries up to {self._images_per_class}."
            )

    def _iteration(self, iteration: int | torch.Tensor) -> int | torch.Tensor:
        if isinstance(iteration, torch.Tensor):
            return iteration
        return _at_least(0, "iteration", iteration)

    def _slots(self, slots: int | Sequence[int] | torch.Tensor) -> torch.Tensor:
        if isinstance(slots, torch.Tensor):
            return slots
        if isinstance(slots, Sequence):
            numbers = [_at_least(0, "slot", slot) for slot in slots]
            if not numbers:
                raise ValueError("EpisodeSampler: slots is empty; name at least one slot.")
            return torch.tensor(numbers, device=self.device)
        return torch.arange(_at_least(1, "slots", slots), device=self.device)


def _integer(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"EpisodeSampler: {name}={value!r} must be an integer.") from None


def _at_least(least: int, name: str, value: int) -> int:
    if _integer(name, value) < least:
        raise ValueError(f"EpisodeSampler: {name}={value} is too small; choose {name} ≥ {least}.")
    return operator.index(value)


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"EpisodeSampler: invalid device {device!r}; choose cpu, cuda or cuda:1.") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"EpisodeSampler: device={str(device)!r} was asked for, but torch {torch.__version__} finds "
            f"{torch.cuda.device_count()} CUDA devices here; choose device=cpu, or install a CUDA build of torch."
        )
    return chosen
