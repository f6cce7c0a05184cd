"""All images of a set as one uint8 array in a file: written image by image, read as a memory map, with a checksum.

STEM.npy holds the images in the order that they were read in, STEM.json which rows are of which class, what was left
out, and a checksum over both. They are written under temporary names and renamed, the array first: whatever interrupts,
the two either agree or are made again. Memory never holds more than a few hundred images.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from tasks.cache import replacing
from tasks.errors import DataError
from tasks.images.decoding import pixels
from tasks.images.listing import Listing

__all__ = ["Index", "gathered", "read", "write"]

FORMAT = 1  # raise it when images are decoded in another way: older files are then made again
AHEAD = 256  # images that are decoded before their turn to be written
CHUNK = 1 << 22  # bytes
DAMAGED_SHOWN = 100  # in an error


@dataclass(frozen=True)
class Index:
    """Where the images of each class are in the array.

    names: of the classes, sorted.
    counts: images of each.
    rows: of the array, class by class, and in a class in the order of the images' own hashes: however they were stored,
        and in whatever order, the same images are the same number of their class.
    part_of: class → "train", "val" or "test", where the data say so; else empty.
    checksum: SHA-256 of names, counts and of all images in this order.
    left_out: what could not be decoded, with why.
    duplicates: images that are the same as another of their class.
    """

    names: list[str]
    counts: list[int]
    rows: list[int]
    part_of: dict[str, str]
    checksum: str
    left_out: list[str]
    duplicates: int


def write(
    folder: Path,
    stem: str,
    source: str,
    listing: Listing,
    size: int | None,
    channels: int | None,
    skip_damaged: bool,
    workers: int,
) -> None:
    """Decode every image of a listing on `workers` threads into folder/STEM.npy and .json; read() gives them.

    source: fingerprint of what is read.
    Raises: DataError naming every image that is damaged, unless skip_damaged; or where images differ in channels, or
        in size, and no size or number of channels is asked for. OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{stem}.npy") as file:
        checksum = hashlib.sha256()
        index = _fill(file, checksum, listing, size, channels, skip_damaged, workers)
    with replacing(folder / f"{stem}.json") as file:
        card = {"source": source, "index": asdict(index)}
        card["checksum"] = _card_checksum(card, checksum.hexdigest())
        file.write(json.dumps(card).encode())


def read(folder: Path, stem: str, source: str) -> tuple[np.ndarray, Index] | None:
    """What write() left there for `source`: a memory map (images, channels, height, width) and the index; or None.

    Cost: one read and one SHA-256 of the file.
    """
    try:
        card = json.loads((folder / f"{stem}.json").read_bytes())
        if card["source"] != source:
            return None
        checksum = hashlib.sha256()
        with (folder / f"{stem}.npy").open("rb") as file:
            while chunk := file.read(CHUNK):
                checksum.update(chunk)
        if card.pop("checksum") != _card_checksum(card, checksum.hexdigest()):
            return None
        # Copy on write: torch takes no array that it could not write to, and nothing here does.
        return np.load(folder / f"{stem}.npy", mmap_mode="c", allow_pickle=False), Index(**card["index"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or not what write() writes
        return None


def gathered(
    listing: Listing, size: int | None, channels: int | None, skip_damaged: bool, workers: int
) -> tuple[np.ndarray, Index]:
    """The same in memory, of what no file can be checked for; raises as write() does."""
    rows: list[np.ndarray] = []
    index = _decode(listing, rows.append, size, channels, skip_damaged, workers)
    return np.stack(rows), index


def _fill(
    file: BinaryIO,
    checksum: Any,
    listing: Listing,
    size: int | None,
    channels: int | None,
    skip_damaged: bool,
    workers: int,
) -> Index:
    shape: tuple[int, ...] = ()

    def append(image: np.ndarray) -> None:
        nonlocal shape
        if not shape:
            shape = image.shape
            _write_header(file, len(listing.items), shape)
        file.write(np.ascontiguousarray(image).data)

    index = _decode(listing, append, size, channels, skip_damaged, workers)
    file.seek(0)
    _write_header(
        file, len(index.rows), shape
    )  # of as many as there are in the end, and no longer than before
    file.seek(0)
    while chunk := file.read(CHUNK):
        checksum.update(chunk)
    return index


def _decode(
    listing: Listing,
    append: Callable[[np.ndarray], None],
    size: int | None,
    channels: int | None,
    skip_damaged: bool,
    workers: int,
) -> Index:
    """Give each image to `append`, in order, and say which is where."""
    classes: dict[str, list[tuple[bytes, int]]] = {name: [] for name in sorted(set(listing.classes))}
    damaged: list[str] = []
    first: tuple[tuple[int, ...], str] | None = None
    row = 0
    with ThreadPoolExecutor(workers) as pool:
        found = _ahead(pool, lambda item: _decoded(item, size, channels), listing.items)
        bar = tqdm(found, "reading images", len(listing.items), unit="image", disable=None, leave=False)
        for item, name, result in zip(listing.items, listing.classes, bar, strict=True):
            if isinstance(result, str):
                damaged.append(f"{item}: {result}")
                continue
            image, digest = result
            first = first or (image.shape, str(item))
            if image.shape != first[0]:
                _refuse_mixture(first, (image.shape, str(item)))
            append(image)
            classes[name].append((digest, row))
            row += 1
    if damaged and not (skip_damaged and row):
        more = f"\n... and {len(damaged) - DAMAGED_SHOWN} more" if len(damaged) > DAMAGED_SHOWN else ""
        raise DataError(
            f"images: {len(damaged)} of {len(listing.items)} images cannot be read; replace them, or leave them out by "
            "task.dataset.skip_damaged=true:\n" + "\n".join(damaged[:DAMAGED_SHOWN]) + more
        )
    return _index(classes, listing.part_of, damaged, first[0] if first else ())


def _index(
    classes: dict[str, list[tuple[bytes, int]]],
    part_of: dict[str, str],
    damaged: list[str],
    shape: tuple[int, ...],
) -> Index:
    names = [name for name, found in classes.items() if found]
    checksum = hashlib.sha256(f"{shape}\n".encode())
    for name in names:
        classes[name].sort()
        checksum.update(f"{name}\n{len(classes[name])}\n".encode())
        checksum.update(b"".join(digest for digest, _ in classes[name]))
    return Index(
        names,
        [len(classes[name]) for name in names],
        [row for name in names for _, row in classes[name]],
        part_of,
        checksum.hexdigest(),
        damaged,
        sum(len(classes[name]) - len({digest for digest, _ in classes[name]}) for name in names),
    )


def _decoded(item: Any, size: int | None, channels: int | None) -> tuple[np.ndarray, bytes] | str:
    """An image with its hash, or why there is none."""
    try:
        image = pixels(item, size, channels)
    except Exception as error:  # what Pillow raises depends on where a file is damaged
        return " ".join(str(error).split()) or type(error).__name__
    return image, hashlib.sha256(image.tobytes()).digest()


def _ahead(pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """function of each item, in their order, on the threads of the pool; of few at a time, as memory has room."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _refuse_mixture(one: tuple[tuple[int, ...], str], other: tuple[tuple[int, ...], str]) -> None:
    (channels, *size), (others, *other_size) = one[0], other[0]
    if channels != others:
        raise DataError(
            f"images: {one[1]} has {channels} channels and {other[1]} has {others}; make all of them one kind by "
            "task.dataset.channels=3 (RGB) or 1 (grey)."
        )
    raise DataError(
        f"images: {one[1]} is {'x'.join(map(str, size))} pixels and {other[1]} is {'x'.join(map(str, other_size))}; "
        "resize all of them by task.dataset.size=84, or another number of pixels."
    )


def _write_header(file: BinaryIO, count: int, shape: tuple[int, ...]) -> None:
    about = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, about)


def _card_checksum(card: dict[str, Any], array: str) -> str:
    text = json.dumps([FORMAT, card["source"], card["index"], array], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
