"""Which images there are, and of which class, before any of them is decoded."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from tasks.errors import DataError, shortened
from tasks.streams import PARTS

__all__ = ["PARTS", "Found", "Listing", "Stored", "fingerprint", "joined", "load", "together"]


@dataclass(frozen=True, slots=True)
class Stored:
    """An image that is no file of its own: element `index` of an array, of a list of encoded images, of a data set."""

    source: Any
    index: int
    where: str  # what it is an element of, for messages

    def __str__(self) -> str:
        return f"{self.where}[{self.index}]"


@dataclass(frozen=True)
class Listing:
    """Images in some order, with their classes.

    items: a path, or where else an image is stored.
    classes: of each item, a name.
    part_of: class → "train", "val" or "test", where the data say so; else empty.
    twice: classes that the data have in two parts, with the parts.
    """

    items: Sequence[Path | Stored]
    classes: Sequence[str]
    part_of: dict[str, str] = field(default_factory=dict)
    twice: Sequence[str] = ()

    def expect_disjoint(self) -> Listing:
        """This one. Raises: DataError where the data have classes in two parts."""
        if self.twice:
            raise DataError(
                f"images: {shortened(self.twice)} would be in two parts of the split; a class trains, validates or "
                "tests. Move it to one; or give data_dir one of the parts alone, or task.dataset.split a file that "
                "says which class is where."
            )
        return self

    def rows(self, kept: Sequence[int]) -> Listing:
        """Of some of the images."""
        return Listing([self.items[i] for i in kept], [self.classes[i] for i in kept], self.part_of)

    def of_parts(self, part_of: dict[str, str]) -> Listing:
        """With these parts, and without the images of classes in none of them.

        Raises: DataError for a class that has a part and no image.
        """
        missing = sorted(set(part_of) - set(self.classes))
        if missing:
            raise DataError(f"images: the split names {shortened(missing)}, of which there are no images.")
        kept = self.rows([i for i, name in enumerate(self.classes) if name in part_of])
        return Listing(kept.items, kept.classes, part_of)


class Found(NamedTuple):
    """Images that were found, of which nothing has been read yet that takes long.

    files: what read() would read; None where that is no file, and nothing can say whether it has changed.
    read: gives the listing. Of arrays it takes as long as to read them, which a cache spares.
    """

    files: Sequence[Path] | None
    read: Callable[[], Listing]


def fingerprint(files: Sequence[Path], root: Path, *settings: object) -> str:
    """Changes with the settings, and where a file has changed in name, size or time.

    root: the folder of the data, which may have moved.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for path in files:
        about = path.stat()
        name = str(path).removeprefix(str(root))
        digest.update(f"{name}\n{about.st_size}\n{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def load(item: Path | Stored) -> Any:
    """A Pillow image that is not decoded yet, or the array that was stored. Raises: whatever a damaged one raises."""
    if isinstance(item, Path):
        return opened(item.read_bytes())
    value = item.source[item.index]
    return opened(bytes(value)) if _is_encoded(value) else value


def opened(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        image.verify()  # checksums, which decoding alone does not look at
    return Image.open(io.BytesIO(content))


def joined(parts: dict[str, Found]) -> Found:
    """What was found for each part as one."""
    files = [path for found in parts.values() for path in found.files or ()]
    return Found(files, lambda: together({part: found.read() for part, found in parts.items()}))


def together(listings: dict[str, Listing]) -> Listing:
    """One listing of those of the parts."""
    part_of: dict[str, str] = {}
    twice: dict[str, str] = {}
    for part, listing in listings.items():
        for name in dict.fromkeys(listing.classes):
            if part_of.setdefault(name, part) != part:
                twice[name] = f"{name} ({part_of[name]} and {part})"
    return Listing(
        [item for one in listings.values() for item in one.items],
        [name for one in listings.values() for name in one.classes],
        part_of,
        [*twice.values()],
    )


def _is_encoded(value: Any) -> bool:
    """Whether a stored value is the content of a file: bytes, or numbers in one row or, of older OpenCV, one column."""
    shape: tuple[int, ...] = getattr(value, "shape", ())
    return isinstance(value, bytes | bytearray) or len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
