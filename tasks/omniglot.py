"""Omniglot: 1623 characters of 50 alphabets, 20 drawings each (Lake, Salakhutdinov, Tenenbaum 2015, Science 350:1332).

Images are inverted (strokes 255, paper 0) and resized 105 -> 28 with Pillow's Lanczos filter, as the MAML paper has
them. Reading 32,460 PNGs takes seconds and is done once; then a cache serves.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageChops, UnidentifiedImageError

from tasks import cache
from tasks._torchvision import import_torchvision
from tasks.dataset import CharacterSet
from tasks.download import downloading, move
from tasks.errors import DataError
from tasks.splits import SPLITS, split_characters

SIDE, DRAWN_SIDE = 28, 105  # pixels: as kept, as drawn
IMAGES_PER_CLASS = 20
CHARACTERS = {"images_background": 964, "images_evaluation": 659}
ENTRY = re.compile(r"images_(?:background|evaluation)/([^/]+)/(character\d\d)/\d{4}_\d\d\.png")
LARGEST_PNG = 1 << 16  # bytes; the real ones have some hundred
# What Pillow and zipfile raise on damaged input. RuntimeError: a flipped bit may ask for a password, or for a
# compression method there is not.
BROKEN_PNG = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
BROKEN_ZIP = (OSError, RuntimeError, ValueError, EOFError, struct.error, zlib.error, zipfile.BadZipFile)

log = logging.getLogger(__name__)


class Omniglot(CharacterSet):
    """Omniglot under one of its named splits; see CharacterSet for what it offers.

    Args:
        data_dir: folder with images_background and images_evaluation, each as .zip or unpacked; or a folder that has
            them in omniglot/ or, as torchvision leaves them, in omniglot-py/. Where they are not found,
            torchvision.datasets.Omniglot downloads them into it.
        split: "maml", "vinyals" or "lake"; see tasks.splits.
        cache_dir: where the 28x28 array is kept; by default `neo-cache` in data_dir, or the user's cache folder if
            data_dir is read-only.
        download: False never asks for a connection.
    Raises: DataError where the images are missing, damaged or not all there; ValueError for an unknown split.
    Cost: about 10 s the first time, then a checksum of the source and of the cache (0.1 s from zips).
    """

    def __init__(
        self,
        data_dir: str | Path,
        split: str = "maml",
        *,
        cache_dir: str | Path | None = None,
        download: bool = True,
    ) -> None:
        if split not in SPLITS:  # before any reading: it may take a while
            raise ValueError(f"Omniglot: unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
        images, names, source = load(
            Path(data_dir).expanduser(), None if cache_dir is None else Path(cache_dir).expanduser(), download
        )
        parts = split_characters(split, names)
        super().__init__("omniglot", split, torch.from_numpy(images), names, parts, f"sha256 {source}")


def load(data_dir: Path, cache_dir: Path | None, download: bool) -> tuple[np.ndarray, list[str], str]:
    """Images (characters, 20, 28, 28) uint8, their sorted names, and the SHA-256 of what they were read from."""
    halves = find(data_dir)
    if halves is None and download:
        fetch(data_dir)
        halves = find(data_dir)
    if halves is None:
        raise DataError(_missing(data_dir, "and download=False"))

    source = checksum(halves)
    folder = cache_dir or cache.default_folder(data_dir)
    stem = f"omniglot-{SIDE}"
    cached = cache.read(folder, stem, source)
    if cached is None:
        log.info("Omniglot: reading %s once; the cache will be in %s", data_dir, folder)
        cached = convert(halves)
        try:
            cache.write(folder, stem, source, *cached)
        except OSError as error:
            if cache_dir is not None:
                raise DataError(
                    f"Omniglot: cache_dir {folder} cannot be written ({error.strerror}); choose another cache_dir."
                ) from error
            log.warning(
                "Omniglot: no cache in %s (%s); the next start reads all again", folder, error.strerror
            )
    images, names = cached
    return images, names, source


def find(data_dir: Path) -> list[Path] | None:
    """The two halves, zip or folder, in data_dir, its omniglot/ or its omniglot-py/; None if no place has both."""
    for place in (data_dir, data_dir / "omniglot", data_dir / "omniglot-py"):
        halves = [_half(place, stem) for stem in CHARACTERS]
        found = [half for half in halves if half is not None]
        if len(found) == len(CHARACTERS):
            return found
    return None


def fetch(data_dir: Path) -> None:
    """Download both zips with torchvision into data_dir/omniglot-py. Raises: DataError where that fails."""
    try:
        torchvision = import_torchvision()
    except ImportError as error:
        raise DataError(_missing(data_dir, "and torchvision is not installed to download it")) from error
    try:
        for half in CHARACTERS:
            archive = Path("omniglot-py", f"{half}.zip")
            if (
                data_dir / archive
            ).is_file():  # whole: an earlier download brought it before it was interrupted
                continue
            with downloading(data_dir) as folder:
                torchvision.datasets.Omniglot(
                    str(folder), background=half == "images_background", download=True
                )
                move(folder / archive, data_dir / archive)
    except (OSError, RuntimeError, HTTPException, zipfile.BadZipFile) as error:  # URLError is an OSError
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise DataError(_missing(data_dir, f"and the download failed ({reason})")) from error


def checksum(halves: Iterable[Path]) -> str:
    """SHA-256 of the bytes of two zips or of every PNG, with its path, of two folders."""
    digest = hashlib.sha256()
    for half in halves:
        digest.update(f"{half.name}\n".encode())
        if half.is_dir():
            for name, png in _folder_entries(half):
                digest.update(f"{name}\n{len(png)}\n".encode())
                digest.update(png)
        else:
            try:
                digest.update(hashlib.sha256(half.read_bytes()).digest())
            except OSError as error:
                raise DataError(
                    f"Omniglot: {half} cannot be read ({error.strerror}); get it again."
                ) from error
    return digest.hexdigest()


def convert(halves: Iterable[Path]) -> tuple[np.ndarray, list[str]]:
    """Read every PNG: images (characters, 20, 28, 28) uint8 and the characters' names, both sorted by name."""
    images: dict[str, list[np.ndarray]] = {}
    for half in halves:
        for path, png in _folder_entries(half) if half.is_dir() else _zip_entries(half):
            match = ENTRY.fullmatch(path)
            if match is None:
                raise DataError(
                    f"Omniglot: {half} holds {path!r}, expected images_background/<alphabet>/character01/0001_01.png "
                    "and the like; get the published archives."
                )
            images.setdefault("/".join(match.groups()), []).append(decode(png, f"{half}: {path}"))
    check_complete({name: len(found) for name, found in images.items()})
    names = sorted(images)
    return np.stack([np.stack(images[name]) for name in names]), names


def decode(png: bytes, where: str) -> np.ndarray:
    """One drawing: (28, 28) uint8, strokes 255, paper 0. Raises: DataError, beginning with `where`."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.verify()  # the checksum of every chunk, which decoding alone does not look at
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.size != (DRAWN_SIDE, DRAWN_SIDE):
                raise DataError(
                    f"{where} is {image.width}x{image.height} pixels, expected {DRAWN_SIDE}x{DRAWN_SIDE}; "
                    "get the published archives."
                )
            # "L" first: Pillow resizes one-bit images with their nearest neighbour, whatever filter is asked for.
            strokes = ImageChops.invert(image.convert("L"))
            return np.asarray(strokes.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    except UnidentifiedImageError as error:
        raise DataError(f"{where} is not a PNG; get that file again.") from error
    except BROKEN_PNG as error:
        raise DataError(f"{where} is a damaged PNG ({error}); get that file again.") from error


def check_complete(counts: dict[str, int]) -> None:
    """Raise DataError unless there are as many characters as Omniglot has, each with its 20 images."""
    expected = sum(CHARACTERS.values())
    if len(counts) != expected:
        raise DataError(
            f"Omniglot: expected {expected} characters, found {len(counts)}; the download or the unpacking stopped "
            "half-way. Get images_background.zip and images_evaluation.zip again."
        )
    for name, count in counts.items():
        if count != IMAGES_PER_CLASS:
            raise DataError(
                f"Omniglot: {name} has {count} images, expected {IMAGES_PER_CLASS}. Get the archive that holds it "
                "again."
            )


def _half(place: Path, stem: str) -> Path | None:
    # The zip before the folder that torchvision unpacks beside it: one file is faster to check than 19,280.
    archive, folder = place / f"{stem}.zip", place / stem
    if archive.is_file():
        return archive
    return folder if folder.is_dir() else None


def _zip_entries(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of every PNG, sorted by path; nothing is ever unpacked to the disk."""
    damaged = f"Omniglot: {archive} is a damaged zip"
    try:
        with zipfile.ZipFile(archive) as file:
            for entry in sorted(file.infolist(), key=lambda entry: entry.filename):
                path = PurePosixPath(entry.filename.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in entry.filename:
                    raise DataError(
                        f"Omniglot: {archive} has an entry that points outside, {entry.filename!r}; this is not "
                        "the published archive, get it again."
                    )
                if not _is_png(path):
                    continue
                if entry.file_size > LARGEST_PNG:
                    raise DataError(
                        f"Omniglot: {archive}: {path} unpacks to {entry.file_size} bytes, expected at most "
                        f"{LARGEST_PNG}; this is not the published archive, get it again."
                    )
                damaged = f"Omniglot: {archive} is damaged at {path}"
                yield str(path), file.read(entry)
    except BROKEN_ZIP as error:
        raise DataError(f"{damaged} ({error}); delete it and get it again.") from error


def _folder_entries(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(path from the folder's parent, bytes) of every PNG, sorted by path."""
    paths = sorted((path.relative_to(folder.parent).as_posix(), path) for path in folder.rglob("*.png"))
    for name, path in paths:
        if _is_png(PurePosixPath(name)):
            try:
                yield name, path.read_bytes()
            except OSError as error:
                raise DataError(
                    f"Omniglot: {path} cannot be read ({error.strerror}); get it again."
                ) from error


def _is_png(path: PurePosixPath) -> bool:
    """False for folders, read-me files and what macOS leaves in archives (__MACOSX/, ._name.png)."""
    return path.suffix == ".png" and not path.name.startswith("._") and path.parts[0] != "__MACOSX"


def _missing(data_dir: Path, why: str) -> str:
    return (
        f"Omniglot: no images_background and images_evaluation (.zip or folder) in {data_dir}, its omniglot/ or its "
        f"omniglot-py/, {why}; put images_background.zip and images_evaluation.zip there, give another data_dir, "
        "or use the generated task=glyphs."
    )
