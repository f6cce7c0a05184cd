"""Files of a run that are written whole or not at all, whatever stops the run on the way, and by one process."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

__all__ = ["atomic_write", "drop_unfinished", "lock_dir", "naming", "write_json"]

UNFINISHED = ".part"


@contextlib.contextmanager
def lock_dir(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder, made if it is not there, as long as this lasts.

    The system drops the lock when the process ends, however it ends, and no file stays behind. Where the system or the
    file system has no such locks, nobody is kept out.
    Raises: BlockingIOError where another process is in the folder.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    with naming(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BlockingIOError(
            f"{folder} is being written by another process; stop that one, or wait until it ends."
        ) from error
    except OSError:
        pass  # a network file system, perhaps
    try:
        yield
    finally:
        os.close(descriptor)


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: whoever reads `path` finds the old content or the new, whatever happens.

    Under a temporary name first, flushed to the disk, then renamed, and the new name flushed too.
    Raises: OSError with `path` in it, for a full disk as well; the old content is then still there.
    """
    with naming(path):
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _sync(path.parent.parent)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C included: no litter beside the file
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync(path.parent)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    atomic_write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def drop_unfinished(folder: Path) -> None:
    """Remove what atomic_write() left in a folder when it was killed. Only where nobody else is writing."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system say which file they are about; those of a write alone do not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sync(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
