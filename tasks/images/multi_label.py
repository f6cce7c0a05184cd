"""Images that have several labels each, and tasks that ask for some of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tasks.class_splits import by_fractions, read_split
from tasks.errors import DataError, shortened
from tasks.hashing import derive
from tasks.images import folders
from tasks.images.image_set import stored
from tasks.images.listing import Found, Listing
from tasks.sampler import LEAST, EpisodeSampler, Pool
from tasks.streams import PARTS
from tasks.task import Batch, Task

__all__ = ["MultiLabelImages", "MultiLabelSampler"]


class MultiLabelImages:
    """Images with several labels each, and which labels meta-train, meta-val and meta-test ask for.

    A label is of one part, and so is an image: with a label of test it is test's; otherwise with one of val, val's;
    otherwise, with one of train, train's. So nothing that is tested has been seen, nor the images.

    Args:
        data: a .csv or .tsv of paths and labels, "cat;dog"; a .npz or .safetensors of uint8 images with labels
            (images, labels), 0 or 1, and `classes`, their names; or a folder that has only one of these.
        separator: between two labels in a table.
        split, fractions, seed: as tasks.Images has them, of labels.
        size, channels, skip_damaged, cache_dir, path_column, label_column: as tasks.Images has them.
    Raises: DataError where the data are missing, damaged or not as described, before anything is trained.
    """

    name = "multi_label"

    def __init__(
        self,
        data: str | Path,
        *,
        separator: str = ";",
        size: int | None = None,
        channels: int | None = None,
        split: str | Path | None = None,
        fractions: Sequence[float] = (0.64, 0.16, 0.2),
        seed: int = 0,
        skip_damaged: bool = False,
        cache_dir: str | Path | None = None,
        path_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        if not separator:
            raise ValueError("multi_label: separator is empty; name what stands between two labels, as ';'.")
        place = Path(data).expanduser().absolute()
        found = folders.find(place, path_column, label_column, separator)

        def read() -> Listing:
            listing = found.read()
            if listing.part_of or listing.twice:
                raise DataError(
                    f"multi_label: {place} says itself which images train, validate and test, but here each part has "
                    "labels of its own; leave that out, and name the labels of each part by task.dataset.split=..."
                )
            labelled = listing.rows([i for i, name in enumerate(listing.classes) if name])
            if not labelled.classes:
                raise DataError(f"multi_label: no image of {place} has a label.")
            return labelled

        self.images_array, index = stored(
            self.name,
            place,
            Found(found.files, read),
            size=size,
            channels=channels,
            skip_damaged=skip_damaged,
            cache_dir=cache_dir,
            settings=(separator, path_column, label_column),
        )
        owned = [frozenset(name.split(separator)) for name in index.names]
        self.names: Sequence[str] = tuple(sorted(frozenset().union(*owned)))
        if split is None:
            named = by_fractions(self.names, fractions, seed, self.name, "labels")
            self.split = f"fractions={'/'.join(map(str, fractions))},seed={seed}"
        else:
            named = read_split(Path(split).expanduser(), self.name)
            self.split = f"labels of {Path(split).name}"
        number = {label: i for i, label in enumerate(self.names)}
        unknown = [label for labels in named.values() for label in labels if label not in number]
        if unknown:
            raise DataError(f"multi_label: the split names {shortened(unknown)}, which no image has.")
        self.parts: Mapping[str, torch.Tensor] = {
            part: torch.tensor([number[one] for one in named[part]], device="cpu") for part in PARTS
        }
        # Images in the order of the index: that of their hashes, class by class, however they were stored.
        self._rows = torch.tensor(index.rows, dtype=torch.int64, device="cpu")
        self._hot = torch.zeros(len(index.rows), len(self.names), dtype=torch.bool, device="cpu")
        self._part: list[str | None] = []
        for labels, count in zip(owned, index.counts, strict=True):
            first = len(self._part)
            self._hot[first : first + count, [number[label] for label in labels]] = True
            own = next((part for part in reversed(PARTS) if labels & {*named[part]}), None)
            self._part += [own] * count
        self.source = str(place)
        about = json.dumps([index.checksum, {part: sorted(names) for part, names in named.items()}])
        self.checksum = hashlib.sha256(about.encode()).hexdigest()
        self.left_out = len(index.left_out)

    def pool(self, part: str) -> Pool:
        """The images of a part, label by label: one with two of its labels is there twice."""
        hot, rows = self.labelled(part)
        listed = [rows[hot[:, place]] for place in range(hot.shape[1])]
        counts = torch.tensor([len(one) for one in listed], dtype=torch.int64, device="cpu")
        return Pool(torch.from_numpy(self.images_array), torch.cat(listed), counts)

    def labelled(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Which labels of a part each of its images has, bool (images, labels), and their rows in the array."""
        own = torch.tensor([one == part for one in self._part], device="cpu")
        return self._hot[own][:, self.parts[part]], self._rows[own]

    def sampler(
        self,
        part: str,
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int,
        crop: int = 0,
        flip: bool = False,
        colour: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str | torch.device = "cpu",
    ) -> MultiLabelSampler:
        """The tasks of one part ("train", "val" or "test"); see MultiLabelSampler."""
        return MultiLabelSampler(
            self, part, ways=ways, shots=shots, queries=queries, seed=seed, crop=crop, flip=flip, colour=colour,
            mean=mean, std=std, device=device,
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """What a result must say about its data, as plain numbers and strings."""
        return {
            "dataset": self.name,
            "split": self.split,
            "parts_of": "labels",
            "labels": len(self.names),
            "images": len(self._rows),
            **{part: len(chosen) for part, chosen in self.parts.items()},
            "left_out": self.left_out,
            "checksum": self.checksum,
            "source": self.source,
        }

    def __repr__(self) -> str:
        parts = "/".join(str(len(chosen)) for chosen in self.parts.values())
        return f"MultiLabelImages({len(self._rows)} images, split {self.split} {parts} labels)"


class MultiLabelSampler(EpisodeSampler):
    """Tasks that ask of each image which of some labels it has; a pure function of (seed, split, iteration, slot).

    For each label of a task, `shots` images that have it are drawn into the support set and `queries` into the query
    set; all images of a task are different. A target is (ways,), 1 where an image has the label, whichever label it was
    drawn for.

    Args: as EpisodeSampler has them; ways: labels of a task, ≥ 2.
    Raises: ValueError naming the argument, or the labels that have too few images: shots + queries, and as many as
        other labels that are rarer may take of them.
    Cost: EpisodeSampler's, and a loop over the labels of a task.
    """

    chance = None

    def __init__(self, dataset: MultiLabelImages, part: str, **settings: Any) -> None:
        super().__init__(dataset, part, rotations=False, **settings)
        hot, _ = dataset.labelled(part)
        self._hot = hot.to(self.device, torch.float32)
        self._image = torch.cat([hot[:, place].nonzero()[:, 0] for place in range(hot.shape[1])]).to(
            self.device
        )
        counts = hot.sum(0)
        self._label_counts = counts.to(self.device)
        self._rarity = (
            counts.argsort(stable=True).argsort().to(self.device)
        )  # rank of a label, the rarest first
        self._expect_enough(hot, counts)

    @property
    def title(self) -> str:
        return f"{self.ways} labels, {self.shots}-shot"

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; arguments as EpisodeSampler.sample has them.

        Returns: support.x (slots, ways*shots, channels, height, width), support.y (slots, ways*shots, ways) float32 of
            0 and 1, query likewise.
        """
        labels, places, class_keys = self._draw(iteration, slots)
        tasks = len(labels)
        image = self._image[places]
        keys = self._support_first(self._image_keys(class_keys, image)) if self.augmentation else None
        x = self._gathered(self._support_first(places), keys)
        y = self._hot[image.view(tasks, -1, 1), labels[:, None, :]].view(*places.shape, self.ways)
        support_x, query_x = x.split([labels.numel() * self.shots, labels.numel() * self.queries])
        support_y, query_y = y.split([self.shots, self.queries], 2)
        return Task(
            Batch(support_x.view(tasks, -1, *self._item), support_y.reshape(tasks, -1, self.ways)),
            Batch(query_x.view(tasks, -1, *self._item), query_y.reshape(tasks, -1, self.ways)),
        )

    def _ranked(
        self, task_keys: torch.Tensor, ways: int, images: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Labels (slots, ways), places of images in the pool (slots, ways, images), and the labels' keys."""
        words = derive(derive(task_keys, 0).unsqueeze(-1), self._class_numbers)
        labels = words.topk(ways).indices
        keys = derive(derive(task_keys, 1).unsqueeze(-1), labels)
        taken = torch.zeros(len(labels), len(self._hot), dtype=torch.bool, device=self.device)
        places = torch.empty(*labels.shape, images, dtype=torch.int64, device=self.device)
        row = torch.arange(len(labels), device=self.device)
        # The rarest label first: what is left of its images would not be enough after the others.
        for turn in self._rarity[labels].argsort(1).unbind(1):
            label = labels[row, turn][:, None]
            own = self._image_numbers < self._label_counts[label]
            place = torch.where(own, self._starts[label] + self._image_numbers, 0)
            image = self._image[place]
            order = derive(keys[row, turn][:, None], image)  # of the image: the same however labels list it
            order.masked_fill_(~own | taken.gather(1, image), LEAST)
            chosen = order.topk(images).indices
            places[row, turn] = place.gather(1, chosen)
            taken.scatter_(1, image.gather(1, chosen), True)
        return labels, places, keys

    def _expect_enough(self, hot: torch.Tensor, counts: torch.Tensor) -> None:
        """Raise ValueError unless no draw of labels can leave one without images of its own."""
        needed = self.shots + self.queries
        together = (hot.T.to(torch.int64) @ hot.to(torch.int64)).clamp(max=needed)
        rarity = self._rarity.cpu()
        rarer = together * (rarity[None, :] < rarity[:, None])
        others = min(self.ways - 1, len(counts) - 1)
        most = needed + rarer.topk(others, 1).values.sum(1)
        few = [
            f"{self.dataset.names[number]} has {count} (of {wanted})"
            for number, count, wanted in zip(self._numbers, counts.tolist(), most.tolist(), strict=True)
            if count < wanted
        ]
        if few:
            raise ValueError(
                f"MultiLabelSampler: shots={self.shots} and queries={self.queries} need {needed} images of each of "
                f"ways={self.ways} labels, besides those that the others may take: {shortened(few)}; choose fewer of "
                "any, or leave these labels out by task.dataset.split=..."
            )
