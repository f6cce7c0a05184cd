"""What a logger is asked, and several of them as one, of which none can end a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Logger", "Loggers", "format_error"]

log = logging.getLogger(__name__)


class Logger:
    """Sees what a run does; this one looks away (logger=none). Derive from it for one of your own.

    Any method may raise: Loggers, which a run calls, warns once and goes on without the logger.
    """

    name = "logger"  # as warnings have it
    extra: str | None = None  # of this package, which installs what it needs

    def start(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        """Once, before the first step.

        Args:
            folder: the run's, whose metrics.jsonl ends with the step that a resumed run goes on after.
            config: resolved, plain.
        """

    def destination(self) -> str | None:
        """After start(): where the run can be seen, and by which command, for people; None for nowhere."""
        return None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """At every logged step. metrics: as in metrics.jsonl, seconds and train/..., val/... as far as there are."""

    def finish(self, result: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        """Once, at the end of a run that got there. pictures: name → PNG."""

    def close(self) -> None:
        """At the end of any run, after finish() or in its place."""


class Loggers(Logger):
    """Several loggers as one. What one of them raises costs a warning and that logger, never the run or the others."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = list(loggers)

    def start(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        self._each("start", lambda logger: logger.start(folder, config, resumed))

    def destination(self) -> str | None:
        """A line a logger that has something to say."""
        found: list[str] = []

        def ask(logger: Logger) -> None:
            place = logger.destination()
            if place is not None:
                found.append(f"{logger.name}: {place}")

        self._each("say where it logs", ask)
        return "\n".join(found) or None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._each("log", lambda logger: logger.log(step, metrics))

    def finish(self, result: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        self._each("finish", lambda logger: logger.finish(result, pictures))

    def close(self) -> None:
        self._each("close", lambda logger: logger.close())

    def _each(self, what: str, call: Callable[[Logger], None]) -> None:
        for logger in list(self._loggers):
            try:
                call(logger)
            except Exception as error:  # whatever ails a logger, it is no reason to lose a run
                self._loggers.remove(logger)
                log.warning(
                    "%s could not %s (%s); the run goes on without it.",
                    logger.name,
                    what,
                    _why(logger, error),
                )


def _why(logger: Logger, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and logger.extra:
        return f"{error.name} is not installed; pip install 'neo-meta[{logger.extra}]'"
    return format_error(error)


def format_error(error: Exception) -> str:
    """On one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
