"""N-way K-shot tasks, drawn on the device as a pure function of (seed, split, iteration, slot)."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch

from tasks.augmentation import Augmentation
from tasks.gathering import Gathering
from tasks.hashing import derive, stream
from tasks.streams import at_least
from tasks.task import Batch, Task

ROTATIONS = 4  # by 0, 90, 180 and 270 degrees
LEAST = torch.iinfo(torch.int64).min  # the word of an image that a class does not have
CHUNK = 4096  # images copied to the device at a time
SHOWN = 5  # names in an error


class Pool(NamedTuple):
    """The images of one part of a data set.

    images: (n, channels, height, width) uint8, on the CPU; it may be a memory map, and hold images of other parts.
    rows: int64, of images, class by class; within a class in an order of its own.
    counts: int64, images of each class.
    """

    images: torch.Tensor
    rows: torch.Tensor
    counts: torch.Tensor


class ClassedImages(Protocol):
    """What a sampler reads of a data set: tasks.CharacterSet or tasks.ImageSet."""

    name: str
    split: str
    names: Sequence[str]
    parts: Mapping[str, torch.Tensor]

    def pool(self, part: str) -> Pool: ...


class EpisodeSampler:
    """Draws meta-batches of tasks from one part of a set of images in classes.

    A class is one of the data in one rotation by a multiple of 90 degrees (`rotations=False`: upright only), so each
    class of a task has a rotation of its own and a character may come twice, rotated differently (Santoro et al. 2016,
    arXiv:1605.06065; Finn et al. 2017). In a task the classes are `ways` different ones, class j has label j, and its
    shots + queries images are all different, the first `shots` of them the support set.

    **A task is a pure function of (seed, split, iteration, slot)**, whatever else is drawn, before or beside it, and on
    whatever device: every class (and image) gets a word of a counter-based hash, and the largest words win. So the
    classes of a 5-way task are the first five of the 20-way task in its place.

    Args:
        part: "train", "val" or "test": the classes to draw from.
        ways, shots, queries: classes in a task (≥ 2), support images (≥ 1) and query images (≥ 1) of each class.
        seed: any integer.
        rotations: whether turned classes are classes of their own; the images are then kept once for each rotation.
        crop, flip, colour: augmentation of every image, of support and query: see Augmentation. Of none of them (the
            defaults) images are as they are.
        mean, std: of each channel, in [0, 1] as the images are; given, images are (x − mean) / std. None: they are not.
        device: where the images live, as uint8: 69 MB for 1100 characters of 20 images of 28x28, in four rotations. On
            a GPU with less than twice their size free they stay in memory (or in a memory map), and each meta-batch is
            copied.
    Raises: ValueError naming the argument, at construction and in sample(), or the classes that have fewer images than
        shots + queries.
    """

    LEAST_WAYS = 2
    ITEMS = "images"  # what errors call them

    def __init__(
        self,
        dataset: ClassedImages,
        part: str,
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int,
        rotations: bool = True,
        crop: int = 0,
        flip: bool = False,
        colour: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if part not in dataset.parts:
            raise ValueError(
                f"EpisodeSampler: unknown part {part!r} of {dataset.name}; expected one of {', '.join(dataset.parts)}."
            )
        self.dataset, self.part, self.rotations = dataset, part, rotations
        self.ways = _at_least(self.LEAST_WAYS, "ways", ways)
        self.shots = _at_least(1, "shots", shots)
        self.queries = _at_least(1, "queries", queries)
        self.seed = _integer("seed", seed)
        self.device = _device(device)
        self.augmentation = Augmentation(crop, flip, colour)

        self._numbers = dataset.parts[part].tolist()  # of the classes, in the data set
        self._rotations = ROTATIONS if rotations else 1
        images, rows, counts = dataset.pool(part)
        self._check_supply(counts)
        self._item = tuple(images.shape[1:])
        self._mean = _per_channel("mean", mean, self._item[0], self.device)
        self._std = _per_channel("std", std, self._item[0], self.device)

        # Class number = rotation * (classes of the data) + class; the images of a class are neighbours in rows.
        if rotations:
            upright = images[rows]
            images = torch.cat([torch.rot90(upright, k, dims=(-2, -1)) for k in range(ROTATIONS)])
            rows, counts = torch.arange(len(images), device="cpu"), counts.repeat(ROTATIONS)
        self._images, self._rows = _placed(images, rows, self.device)
        self._gathering = Gathering(self._images, self.augmentation, self._mean, self._std, self.device)
        self._starts = (counts.cumsum(0) - counts).to(self.device)
        most = int(counts.max())
        self._counts = counts.to(self.device) if int(counts.min()) < most else None  # None: all have as many
        self._class_numbers = torch.arange(self.classes, device=self.device)
        self._image_numbers = torch.arange(most, device=self.device)
        self._support_y = self._class_numbers[: self.ways].repeat_interleave(self.shots)
        self._query_y = self._class_numbers[: self.ways].repeat_interleave(self.queries)
        self._key = stream(self.seed, dataset.name, dataset.split, part)

    @property
    def classes(self) -> int:
        """How many classes there are to draw from: those of the data x rotations."""
        return len(self._numbers) * self._rotations

    @property
    def title(self) -> str:
        return f"{self.ways}-way {self.shots}-shot"

    @property
    def chance(self) -> float | None:
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
        classes, images, class_keys = self._draw(iteration, slots)
        places = self._starts[classes].unsqueeze(-1) + images
        keys = self._support_first(self._image_keys(class_keys, images)) if self.augmentation else None
        # Support images first, query images behind: one gather, of which both sets are contiguous pieces.
        x = self._gathered(self._support_first(places), keys)
        support_x, query_x = x.split([classes.numel() * self.shots, classes.numel() * self.queries])

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
        return self._draw(iteration, slots)[:2]

    def _draw(
        self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """draw(), and the key of each class in its task, (slots, ways)."""
        iteration_key = derive(self._key, self._iteration(iteration))
        task_keys = derive(iteration_key, self._slots(slots))
        return self._ranked(task_keys, self.ways, self.shots + self.queries)

    def _ranked(
        self, task_keys: torch.Tensor, ways: int, images: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The first `ways` classes of each task, the first `images` images of each, and the classes' keys."""
        class_words = derive(derive(task_keys, 0).unsqueeze(-1), self._class_numbers)
        classes = class_words.topk(ways).indices  # words of one stream never tie
        class_keys = derive(derive(task_keys, 1).unsqueeze(-1), classes)
        image_words = derive(class_keys.unsqueeze(-1), self._image_numbers)
        if self._counts is not None:
            image_words.masked_fill_(self._image_numbers >= self._counts[classes].unsqueeze(-1), LEAST)
        return classes, image_words.topk(images).indices, class_keys

    def _image_keys(self, class_keys: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The key of each image of a task, by which it is augmented."""
        return derive(class_keys.unsqueeze(-1), images)

    def _gathered(self, places: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        """Images (n, channels, height, width) float32 at some places of the rows, normalised; with keys, augmented."""
        return self._gathering(self._rows[places], keys)

    def pixels(self, x: torch.Tensor) -> torch.Tensor:
        """Images x (n, channels, height, width) of its tasks in [0, 1], for people: without mean and std."""
        x = x if self._std is None else x * self._std
        return x if self._mean is None else x + self._mean

    def _support_first(self, drawn: torch.Tensor) -> torch.Tensor:
        """(slots, ways, shots + queries) → all of the support sets, task by task, then all of the query sets."""
        support, query = drawn.split([self.shots, self.queries], dim=-1)
        return torch.cat([support.reshape(-1), query.reshape(-1)])

    def class_name(self, number: int) -> str:
        """Of a class number of draw(): "Alphabet/character01", and "rot90" and so on behind it when rotated."""
        rotation, position = divmod(number, len(self._numbers))
        name = self.dataset.names[self._numbers[position]]
        return f"{name} rot{90 * rotation}" if rotation else name

    def __repr__(self) -> str:
        return (
            f"EpisodeSampler({self.dataset.name}, {self.part}: {self.ways}-way of {self.classes} classes, "
            f"{self.shots}-shot, {self.queries} queries, seed {self.seed}, {self.device})"
        )

    def _check_supply(self, counts: torch.Tensor) -> None:
        if self.ways > self.classes:
            supply = f"{len(self._numbers)} x {self._rotations} rotations"
            raise ValueError(
                f"EpisodeSampler: ways={self.ways} is more than the {self.classes} classes of {self.dataset.name} "
                f"{self.part} ({supply}); choose ways from {self.LEAST_WAYS} to {self.classes}."
            )
        wanted, least = self._images_needed(), int(counts.min())
        if wanted <= least:
            return
        has, remedy = f"{self.dataset.name} has {least}", ""
        if least < int(counts.max()):
            few = [
                f"{self.dataset.names[number]} has {count}"
                for number, count in zip(self._numbers, counts.tolist(), strict=True)
                if count < wanted
            ]
            has = ", ".join(few[:SHOWN]) + (f" and {len(few) - SHOWN} more have fewer" if few[SHOWN:] else "")
            remedy = ", or leave these classes out"
        raise ValueError(
            f"EpisodeSampler: shots={self.shots} and queries={self.queries} need {wanted} {self.ITEMS} of each class, "
            f"and {has}; choose shots + queries up to {least}{remedy}."
        )

    def _images_needed(self) -> int:
        """Of each class."""
        return self.shots + self.queries

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


def _placed(
    images: torch.Tensor, rows: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and the rows of the classes' images in them: on a GPU where there is room, else on the CPU."""
    if device.type == "cpu":
        return images, rows
    size = len(rows) * images[0].numel() * images.element_size()  # bytes
    if device.type == "cuda" and size > torch.cuda.mem_get_info(device)[0] // 2:
        return images, rows.to(device)
    there = torch.empty(len(rows), *images.shape[1:], dtype=images.dtype, device=device)
    for start in range(0, len(rows), CHUNK):
        there[start : start + CHUNK] = images[rows[start : start + CHUNK]].to(device)
    return there, torch.arange(len(rows), device=device)


def _per_channel(
    name: str, values: Sequence[float] | None, channels: int, device: torch.device
) -> torch.Tensor | None:
    if values is None:
        return None
    if len(values) != channels or (name == "std" and min(values) <= 0):
        raise ValueError(
            f"EpisodeSampler: {name}={list(values)} must have a number{' above 0' if name == 'std' else ''} for each "
            f"of the {channels} channels of the images."
        )
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


def _integer(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"EpisodeSampler: {name}={value!r} must be an integer.") from None


def _at_least(least: int, name: str, value: int) -> int:
    return at_least(least, "EpisodeSampler", name, value)


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
