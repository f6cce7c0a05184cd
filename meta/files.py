"""Files of a run that are written whole or not at all, whatever stops the run on the way, and by one process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

__all__ = [
    "atomic_write",
    "drop_unfinished",
    "expect_writable",
    "lock_dir",
    "lock_file",
    "make_new_dir",
    "naming",
    "write_json",
]

UNFINISHED = ".part"
HOLDER = ".lock"  # in a folder that is locked: who has it, for the error that others get


@contextlib.contextmanager
def lock_dir(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder, made if it is not there, as long as this lasts.

    The system drops the lock when the process ends, however it ends; the name of a killed holder that then stays behind
    locks nobody out. Where the system or the file system has no such locks, nobody is kept out.
    Raises: BlockingIOError where another process is in the folder, and says which; OSError where nothing can be
        written there.
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
            f"{folder} is being written by {_holder(folder)}, which is alive; nothing was changed. Wait until it ends, "
            "or stop it, which leaves a checkpoint (kill, or Ctrl-C where it runs), and give the command again."
        ) from error
    except OSError:
        pass  # a network file system, perhaps
    holder = folder / HOLDER
    try:
        with naming(holder):
            since = datetime.now().isoformat(" ", "seconds")
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}\n", "utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        os.close(descriptor)


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """One process after another: others that ask for the same file wait as long as this lasts. Made if it is not there.

    Where the system or the file system has no such locks, nobody waits. Raises: OSError where it cannot be made.
    """
    with naming(path):
        file = open(path, "ab")  # noqa: SIM115 (closed below)
    with file:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _holder(folder: Path) -> str:
    try:
        return (folder / HOLDER).read_text(encoding="utf-8").strip() or "another process"
    except OSError:  # it has only just come, or can write no more
        return "another process"


def make_new_dir(folder: Path) -> Path:
    """Make a folder that was not there before, and give it: folder itself, else folder-2, folder-3 ...

    Two processes that ask for the same name at the same time get two folders.
    Raises: OSError naming the folder that cannot be made.
    """
    number, candidate = 1, folder
    while True:
        try:
            with naming(candidate):
                candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            number += 1
            candidate = folder.with_name(f"{folder.name}-{number}")


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


def expect_writable(folder: Path) -> None:
    """Raise OSError naming the folder unless a file can be made in it: asked before what takes long. Leaves none."""
    with naming(folder), tempfile.TemporaryFile(dir=folder):
        pass


def drop_unfinished(folder: Path) -> None:
    """Remove what atomic_write() left in a folder, or below, when it was killed. Only where nobody else is writing."""
    for path in folder.rglob(f".*{UNFINISHED}"):
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
