"""scripts/train.py in processes that may be killed, and that start in no time: forked from one that imported it all.

The server that they are forked from has run nothing, so that a child is what a command is after its imports.
"""

from __future__ import annotations

import builtins
import importlib
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

__all__ = ["send", "start"]

WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.truncate")  # audit events of what changes files


def start(
    cwd: Path, *arguments: str, kill_at: int | None = None, file_limit: int | None = None
) -> BaseProcess:
    """`python scripts/train.py *arguments` in cwd, which is made, its output in cwd/output.

    kill_at: die by SIGKILL in front of this one, from 0, of the things it does with files in cwd.
    file_limit: bytes that a file may have; writing more fails as it does on a full disk.
    """
    cwd.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [__name__, "meta.cli.train", "meta.run", "tasks", "matplotlib.backends.backend_agg"]
    )
    process = context.Process(target=_command, args=(str(cwd), arguments, kill_at, file_limit))
    process.start()
    return process


def send(process: BaseProcess, number: int) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)


def _command(cwd: str, arguments: Sequence[str], kill_at: int | None, file_limit: int | None) -> None:
    os.chdir(cwd)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["train.py", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in the background of a shell
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    if kill_at is not None:
        _die_at(kill_at, cwd)
    importlib.import_module("meta.cli.train").main()


def _die_at(event: int, cwd: str) -> None:
    """Counts what the audit of the interpreter says of files in cwd, files just opened, and flushes to the disk."""
    seen = 0

    def count() -> None:
        nonlocal seen
        if seen == event:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        if name in WATCHED and str(arguments[0]).startswith(cwd):
            count()

    def opening(file: Any, *arguments: Any, **settings: Any) -> Any:
        opened = original_open(file, *arguments, **settings)
        if str(file).startswith(cwd):
            count()  # what is written over is empty now
        return opened

    def syncing(descriptor: int) -> None:
        count()
        original_sync(descriptor)

    original_open, original_sync = builtins.open, os.fsync
    builtins.open, os.fsync = opening, syncing  # type: ignore[assignment]
    sys.addaudithook(hook)
