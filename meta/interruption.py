"""A run ends between two steps, with what it has done on the disk: by SIGINT, SIGTERM, or who looks at its scores."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["STOPPED", "Interrupted", "Interruptions", "Stopped"]

STOPPED = "stopped.json"  # in a run's folder: why it was stopped before its last step

WATCHED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Someone asked the run to stop. A KeyboardInterrupt, so that nobody takes it for an error and goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = int(number)


class Stopped(Exception):
    """Who looks at the validations saw no use in going on. No error; the message is the reason."""


class Interruptions:
    """While open, SIGINT and SIGTERM raise Interrupted in the main thread; while patient, the first is only noted.

    Signals that the process ignores (nohup) stay ignored. In another thread than the main one it does nothing.
    """

    def __init__(self) -> None:
        self.caught: int | None = None  # the first signal that came while patient
        self._patient = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            for number in WATCHED:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Leave it to the caller to look at `caught` and stop at a good moment; a second signal raises all the same."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._patient and self.caught is None:
            self.caught = number
        else:
            raise Interrupted(number)
