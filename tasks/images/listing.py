"""Which images there are, and of which class, before any of them is decoded."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from tasks.errors import DataError

__all__ = ["Listing", "Stored", "joined", "shortened"]

PARTS = ("train", "val", "test")
SHOWN = 5  # names in an error


class Stored(NamedTuple):
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
    files: what the items are read from; None where that is no file (and nothing can say whether it has changed).
    """

    items: Sequence[Path | Stored]
    classes: Sequence[str]
    part_of: dict[str, str] = field(default_factory=dict)
    files: Sequence[Path] | None = None

    def of_classes(self, chosen: Callable[[str], bool]) -> Listing:
        """Without the images of other classes."""
        kept = [i for i, name in enumerate(self.classes) if chosen(name)]
        files = self.files if self.files is not self.items else [self.items[i] for i in kept]
        return Listing(
            [self.items[i] for i in kept],
            [self.classes[i] for i in kept],
            self.part_of,
            files,  # type: ignore[arg-type]
        )

    def fingerprint(self, root: Path, *settings: object) -> str | None:
        """Changes with the settings, and where a file has changed in name, size or time; None without files.

        root: the folder of the data, which may have moved.
        """
        if self.files is None:
            return None
        digest = hashlib.sha256(repr(settings).encode())
        for name in self.classes:
            digest.update(f"{name}\n".encode())
        for path in self.files:
            about = path.stat()
            digest.update(
                f"{str(path).removeprefix(str(root))}\n{about.st_size}\n{about.st_mtime_ns}\n".encode()
            )
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


def joined(listings: dict[str, Listing]) -> Listing:
    """One listing of those of the parts. Raises: DataError for classes that are in two parts."""
    part_of: dict[str, str] = {}
    twice: dict[str, str] = {}
    for part, listing in listings.items():
        for name in dict.fromkeys(listing.classes):
            if part_of.setdefault(name, part) != part:
                twice[name] = f"{name} ({part_of[name]} and {part})"
    if twice:
        raise DataError(
            f"images: {shortened(list(twice.values()))} would be in two parts of the split; a class trains, validates "
            "or tests. Remove it from one."
        )
    files = [one.files for one in listings.values()]
    return Listing(
        [item for one in listings.values() for item in one.items],
        [name for one in listings.values() for name in one.classes],
        part_of,
        None if None in files else [path for some in files for path in some or ()],
    )


def shortened(names: Sequence[str], shown: int = SHOWN) -> str:
    """ "a, b, c, d, e and 7 more"."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _is_encoded(value: Any) -> bool:
    """Whether a stored value is the content of a file: bytes, or numbers in one row."""
    return isinstance(value, bytes | bytearray) or getattr(value, "ndim", 0) == 1
