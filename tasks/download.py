"""Downloads are there whole or not at all: what was interrupted is never taken for data."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["downloading", "move"]

TIMEOUT_S = (
    30.0  # without an answer from the server; torchvision sets none, and a silent network would hang it
)


@contextmanager
def downloading(data_dir: Path) -> Iterator[Path]:
    """A new folder inside data_dir to download into. It goes at the end, with all that was not moved out of it.

    A kill leaves it behind as .download-*, which nothing ever reads. Raises: OSError where data_dir cannot be written.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".download-", dir=data_dir))
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield folder
    finally:
        socket.setdefaulttimeout(patience)
        shutil.rmtree(folder, ignore_errors=True)


def move(file: Path, place: Path) -> None:
    """Give a whole file its place, in one step."""
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, place)
