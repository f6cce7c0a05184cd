"""One uint8 array on disk with a checksum beside it; a cache is read as it was written, or not at all.

STEM.npy holds the images, STEM.json the names, the checksum of the source they were read from, and one
checksum over all of it. Each is written under a temporary name, flushed to the disk and renamed, the array
first: whatever interrupts, the two either agree or are rebuilt. No pickle is read or written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

FORMAT = 1  # raise it when the images are made in another way: older caches are then rebuilt


def read(folder: Path, stem: str, source: str) -> tuple[np.ndarray, list[str]] | None:
    """The images and names cached for `source`, or None where none can be trusted.

    source: checksum of the files the images were read from; a cache of other files is stale, and so not read.
    Cost: one read and one SHA-256 of the array.
    """
    try:
        card = json.loads((folder / f"{stem}.json").read_bytes())
        array = (folder / f"{stem}.npy").read_bytes()
        names = card["names"]
        if card["checksum"] != _checksum(source, names, array):
            return None
        return np.load(io.BytesIO(array), allow_pickle=False), names
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or not what write() writes
        return None


def write(folder: Path, stem: str, source: str, images: np.ndarray, names: Sequence[str]) -> None:
    """Cache `images` and `names` for `source`. Raises: OSError where the folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    array = buffer.getvalue()
    card = {"source": source, "checksum": _checksum(source, names, array), "names": list(names)}
    for ending, content in (("npy", array), ("json", json.dumps(card, indent=0).encode())):
        with replacing(folder / f"{stem}.{ending}") as file:
            file.write(content)


def default_folder(data_dir: Path) -> Path:
    """`neo-cache` inside data_dir where that may be written, otherwise the user's cache folder."""
    return data_dir / "neo-cache" if _writable(data_dir) else user_folder()


def user_folder() -> Path:
    """The platform's place for what can be made again: XDG_CACHE_HOME, ~/Library/Caches, or LOCALAPPDATA."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
        return Path(base if base else Path.home() / "AppData" / "Local") / "neo" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "neo"
    base = os.environ.get("XDG_CACHE_HOME", "")  # by its standard, to be ignored where relative
    return Path(base if os.path.isabs(base) else Path.home() / ".cache") / "neo"


def _writable(folder: Path) -> bool:
    # A folder that nobody may write is meant to stay as it is; root's os.access would say yes all the same.
    if not folder.is_dir() or not folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _checksum(source: str, names: Sequence[str], array: bytes) -> str:
    digest = hashlib.sha256(f"{FORMAT}\n{source}\n".encode())
    digest.update("\n".join(names).encode())
    digest.update(b"\n\n")
    digest.update(array)
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is whole, or leaves it as it was."""
    # Not tempfile.mkstemp: its files are for their owner alone, and a data folder may be a group's.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C included: no litter beside the cache
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
