"""Images of one's own: from a folder, a table, arrays, or an indexable of (image, label)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.class_splits import by_fractions, by_part, read_split
from tasks.columns import IMAGE_COLUMNS, as_pairs
from tasks.errors import DataError
from tasks.images import folders
from tasks.images.arrays import indexable
from tasks.images.image_set import ImageSet, stored
from tasks.images.listing import Found, Listing

__all__ = ["Images"]


class Images(ImageSet):
    """A set of images with their classes, read once and kept as one uint8 array; see ImageSet for what it offers.

    Args:
        data: a folder of class folders, <class>/<any name>.jpg; a .csv or .tsv of paths and labels; a .npz, .npy or
            .safetensors of uint8 images with labels; a folder with train, val and test, each one of these; or any
            indexable of (image, label), as a torchvision data set, or of mappings, as those of the `datasets` library.
        size: pixels, height and width that images are scaled to (Lanczos; the shape of an image is not kept); None: as
            they are, which must be one size.
        channels: 3 (RGB) or 1 (grey), which images are converted to; None: as they are, which must be one kind.
        split: a text file of the classes of each part, [train], [val] and [test] above a name a line, or a folder with
            train.txt, val.txt and test.txt. Classes in none of them are left out. None: as the data's own train, val
            and test say, or else by fractions.
        fractions: of the classes that train, validate and test; drawn by `seed`, a function of the classes' names.
        seed: any integer; part of the data, not of a run.
        skip_damaged: leave out images that cannot be decoded. False: an error that names all of them.
        cache_dir: where the array is kept; by default `neo-cache` beside the data, or the user's cache folder if that
            place is read-only. What has no file, an indexable, is read anew at every start, into memory.
        path_column, label_column: of a table, or of mappings, where path_column names the images; None: path, image,
            filename ... and label, class ...
    Raises: DataError where the data are missing, damaged, mixed or not as described, before anything is trained.
    Cost: a few milliseconds an image the first time, on all cores, in memory that does not grow with their number; then
        one checksum of the array.
    """

    def __init__(
        self,
        data: Any,
        *,
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
        if isinstance(data, str | Path):
            place = Path(data).expanduser().absolute()
            found, source = folders.find(place, path_column, label_column), str(place)
        elif hasattr(data, "__len__") and hasattr(data, "__getitem__"):
            pairs = as_pairs(data, path_column, label_column, IMAGE_COLUMNS, ("path_column", "label_column"))
            place, found, source = Path(), indexable(pairs), type(data).__name__
        else:
            raise DataError(
                f"images: data must be a path or an indexable of (image, label), got {type(data).__name__}."
            )
        given = None if split is None else read_split(Path(split).expanduser())

        def read() -> Listing:
            if given is not None:
                return found.read().of_parts({name: part for part, names in given.items() for name in names})
            listing = found.read().expect_disjoint()
            if not listing.part_of:
                by_fractions(
                    sorted(set(listing.classes)), fractions, seed
                )  # raises before images are decoded
            return listing

        images, index = stored(
            "images",
            place,
            Found(found.files, read),
            size=size,
            channels=channels,
            skip_damaged=skip_damaged,
            cache_dir=cache_dir,
            settings=(given, path_column, label_column),
        )
        if split is not None:
            parts, named = by_part(index.part_of), f"classes of {Path(split).name}"
        elif index.part_of:
            parts, named = by_part(index.part_of), "train, val, test of the data"
        else:
            parts = by_fractions(index.names, fractions, seed)
            named = f"fractions={'/'.join(map(str, fractions))},seed={seed}"
        super().__init__("images", named, images, index, parts, source)
