"""Images with a mask each, and tasks that ask of each pixel whether it is of a class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tasks.augmentation import moved
from tasks.class_splits import by_fractions, by_part, read_split
from tasks.errors import DataError, shortened
from tasks.images import folders
from tasks.images.image_set import ImageSet, stored
from tasks.images.listing import Found, Listing, Stored, opened
from tasks.sampler import EpisodeSampler
from tasks.streams import PARTS
from tasks.task import IGNORED, PixelBatch, Task

__all__ = ["PixelSampler", "Segmentation"]


class Segmentation(ImageSet):
    """Images of classes, each with a mask of the pixels that are of its class; see ImageSet for what it has besides.

    Args:
        data: a folder of class folders, each with images/ and masks/ of the same names, or with images that have a mask
            of the same name beside them, <name>.png for <name>.jpg (as FSS-1000 has them); or a .csv or .tsv with
            columns of paths, of masks and of labels. A pixel of a mask is of the class where it is not 0 (black).
        size: pixels, height and width that images are scaled to (Lanczos), and masks (the nearest pixel); None: as they
            are, which must be one size.
        channels, split, fractions, seed, cache_dir, path_column, label_column: as tasks.Images has them.
        mask_column: of a table.
    Raises: DataError where the data are missing, damaged, without a mask or not as described, before anything is
        trained.
    """

    def __init__(
        self,
        data: str | Path,
        *,
        size: int | None = None,
        channels: int | None = None,
        split: str | Path | None = None,
        fractions: Sequence[float] = (0.64, 0.16, 0.2),
        seed: int = 0,
        cache_dir: str | Path | None = None,
        path_column: str | None = None,
        label_column: str | None = None,
        mask_column: str = "mask",
    ) -> None:
        place = Path(data).expanduser().absolute()
        if place.is_dir() and {*PARTS} <= {path.name for path in place.iterdir()}:
            raise DataError(
                f"segmentation: {place} has train, val and test; put their class folders into one folder, and name the "
                "classes of each part by task.dataset.split=..."
            )
        if place.is_dir():
            listing, masks = _pairs(place)
        elif place.is_file() and place.suffix.lower() in folders.TABLES:
            listing = folders.table(place, path_column=path_column, label_column=label_column).read()
            listing.expect_disjoint()
            traced = folders.table(place, path_column=mask_column, label_column=label_column).read()
            masks = [Path(str(one)) for one in traced.items]
        else:
            raise DataError(
                f"segmentation: {place} is no folder of class folders and no table of paths, masks and labels; name "
                "one: data_dir=..."
            )
        paths = [Path(str(one)) for one in listing.items]
        pictures = Found(paths, lambda: listing)
        drawn = _Masks(masks, size)
        outlines = Found(
            masks,
            lambda: Listing([Stored(drawn, i, str(one)) for i, one in enumerate(masks)], listing.classes),
        )
        settings: dict[str, Any] = {"size": size, "skip_damaged": False, "cache_dir": cache_dir}
        images, index = stored("segmentation", place, pictures, channels=channels, **settings)
        found, about = stored("masks", place, outlines, channels=1, may_repeat=True, **settings)
        if found.shape[2:] != images.shape[2:]:
            raise DataError(
                f"segmentation: images are {images.shape[2]}x{images.shape[3]} pixels and masks {found.shape[2]}x"
                f"{found.shape[3]}; give masks of the images' own size, or scale both by task.dataset.size=..."
            )
        if split is not None:
            parts, named = (
                read_split(Path(split).expanduser(), "segmentation"),
                f"classes of {Path(split).name}",
            )
        elif index.part_of:
            parts, named = by_part(index.part_of), "train, val, test of the data"
        else:
            parts = by_fractions(index.names, fractions, seed, "segmentation")
            named = f"fractions={'/'.join(map(str, fractions))},seed={seed}"
        super().__init__("segmentation", named, images, index, parts, str(place))
        self.masks = torch.from_numpy(found)[:, 0]  # (n, height, width) uint8, a row for each of self.images
        self.checksum = hashlib.sha256(f"{self.checksum}{about.checksum}".encode()).hexdigest()

    def sampler(  # type: ignore[override]  # without turned classes, and sizes of tasks that vary
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
    ) -> PixelSampler:
        """The tasks of one part ("train", "val" or "test"); see PixelSampler."""
        return PixelSampler(
            self, part, ways=ways, shots=shots, queries=queries, seed=seed, crop=crop, flip=flip, colour=colour,
            mean=mean, std=std, device=device,
        )  # fmt: skip


class PixelSampler(EpisodeSampler):
    """Tasks of some classes, whose pixels are to be found; a pure function of (seed, split, iteration, slot).

    As EpisodeSampler's, but that a label is one of each pixel: 0 for the background, 1 for the first class of the task,
    and so on; an image shows pixels of its own class alone. ways may be 1. Labels move with their images, and are
    IGNORED where a crop takes pixels from outside.
    """

    LEAST_WAYS = 1
    chance = None

    def __init__(self, dataset: Segmentation, part: str, **settings: Any) -> None:
        super().__init__(dataset, part, rotations=False, **settings)
        self._masks = (dataset.masks[dataset.pool(part).rows] > 0).to(self.device)

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; arguments as EpisodeSampler.sample has them.

        Returns: support.x (slots, ways*shots, channels, height, width), support.y (slots, ways*shots, height, width)
            int64 in [0, ways] or IGNORED, query likewise, both PixelBatch.
        """
        classes, images, class_keys = self._draw(iteration, slots)
        tasks = len(classes)
        places = self._support_first(self._starts[classes].unsqueeze(-1) + images)
        labels = torch.cat([self._support_y.repeat(tasks), self._query_y.repeat(tasks)]) + 1
        keys = self._support_first(self._image_keys(class_keys, images)) if self.augmentation else None
        x = self._gathered(places, keys)
        y = torch.where(self._masks[places], labels[:, None, None], 0)
        if keys is not None and self.augmentation.moves_images:
            moves = self.augmentation.moves(keys)
            y = moved(y[:, None], moves, self.augmentation.crop, outside=IGNORED).squeeze(1)
        sizes = [classes.numel() * self.shots, classes.numel() * self.queries]
        support, query = (
            PixelBatch(some_x.view(tasks, -1, *self._item), some_y.view(tasks, -1, *self._item[1:]))
            for some_x, some_y in zip(x.split(sizes), y.split(sizes), strict=True)
        )
        return Task(support, query)


class _Masks:
    """Mask files as arrays of 0 and 255, scaled by the nearest pixel, so that no number in between comes up."""

    def __init__(self, paths: Sequence[Path], size: int | None) -> None:
        self.paths, self.size = paths, size

    def __getitem__(self, index: int) -> np.ndarray:
        image = opened(self.paths[index].read_bytes())
        if image.mode in ("RGBA", "LA"):
            image = image.convert(image.mode[:-1])
        if self.size is not None:
            image = image.resize((self.size, self.size), Image.Resampling.NEAREST)
        array = np.asarray(image)
        inside = array.any(-1) if array.ndim == 3 else array != 0
        return np.where(inside, np.uint8(255), np.uint8(0))


def _pairs(place: Path) -> tuple[Listing, list[Path]]:
    """The images of class folders, and the mask of each. Raises: DataError naming images without one."""
    every = folders.class_folders(place).read()
    images: dict[tuple[str, Path], Path] = {}
    masks: dict[tuple[str, Path], Path] = {}
    for item, name in zip(every.items, every.classes, strict=True):
        path = Path(str(item))
        inside = path.relative_to(place / name)
        if inside.parts[0] in ("images", "masks"):
            kind = masks if inside.parts[0] == "masks" else images
            inside = Path(*inside.parts[1:])
        else:
            kind = masks if path.suffix.lower() == ".png" else images
        kind[name, inside.with_suffix("")] = path
    lonely = [
        str(one[key]) for one, other in ((images, masks), (masks, images)) for key in one if key not in other
    ]
    if lonely:
        raise DataError(
            f"segmentation: {len(lonely)} files of {place} have no mask, or no image, of the same name: "
            f"{shortened(lonely)}; expected <class>/images/<name> with <class>/masks/<name>.png, or <class>/<name>.jpg "
            "with <class>/<name>.png."
        )
    return Listing([images[key] for key in images], [name for name, _ in images]), [
        masks[key] for key in images
    ]
