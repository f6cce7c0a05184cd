"""Where a run can be watched, besides the files that it always writes."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from meta.files import atomic_write
from meta.problems import ACCURACY, Metric

__all__ = ["Logger", "Progress", "Wandb"]

ONLINE = ("online", "run", "shared")  # the values of WANDB_MODE that want a connection

log = logging.getLogger(__name__)


class Logger:
    """Sees what a run does; this one looks away (logger=none)."""

    def start(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        """Once, before the first step. config: resolved, plain."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """At every logged step."""

    def finish(self, result: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        """Once, at the end of a run that got there."""

    def close(self) -> None:
        """At the end of any run, after finish() or in its place. Never raises."""


class Wandb(Logger):
    """Weights & Biases: online where there is an API key, otherwise offline; never a prompt.

    A key is WANDB_API_KEY or an entry in netrc for the host that WANDB_BASE_URL names. WANDB_MODE has the last word,
    except that nothing goes online without a key. A run that is resumed goes on under its id, in wandb/run-id.

    Whatever goes wrong costs a line of warning, and timeout_s at the start or the end; then the run goes on, offline
    where the network is dead, without wandb where it is not installed.

    Args:
        project: of the run.
        name: of the run in the project; None for one made up by wandb.
        timeout_s: how long going online, and sending what is left at the end, may take, in seconds, > 0.
    """

    def __init__(self, project: str = "neo", name: str | None = None, timeout_s: float = 10.0) -> None:
        if not timeout_s > 0:
            raise ValueError(
                f"Wandb: timeout_s={timeout_s} is invalid; choose a number of seconds greater than 0."
            )
        self.project, self.name, self.timeout_s = project, name, timeout_s
        self._wandb: Any = None
        self._run: Any = None

    def start(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        if mode in ONLINE and not has_key():
            log.warning(
                "WANDB_MODE=%s needs an API key, and there is none; wandb keeps the run offline.", mode
            )
            mode = "offline"

        def begin(mode: Any, new: bool = not resumed) -> None:
            import wandb

            self._wandb = wandb
            self._run = wandb.init(
                project=self.project,
                name=self.name,
                id=_run_id(folder / "wandb" / "run-id", new),
                resume="allow",
                reinit="create_new",  # never the run of somebody else in this process
                dir=str(folder),
                config=dict(config),
                mode=mode,
                tags=["resumed"] if resumed else None,
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    init_timeout=self.timeout_s,
                    finish_timeout=self.timeout_s,
                    finish_timeout_raises=True,
                ),
            )

        if mode in ONLINE:
            try:
                begin(mode)
                return
            except ImportError:
                pass  # said below
            except Exception as error:
                log.warning("wandb could not go online (%s); it keeps the run offline.", _format_error(error))
                # Under a new id: wandb still holds the one that it did not get online.
                self._guard(lambda: begin("offline", new=True), "start")
                return
        self._guard(lambda: begin(mode), "start")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._guard(lambda: self._run.log(dict(metrics), step=step), "log")

    def finish(self, result: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        def end() -> None:
            self._run.log({name: self._wandb.Image(str(path)) for name, path in pictures.items()})
            self._run.summary.update(dict(result))
            self._end(0)

        self._guard(end, "finish")

    def close(self) -> None:
        self._guard(lambda: self._end(1), "close")

    def _end(self, exit_code: int) -> None:
        run, self._run = self._run, None
        folder = Path(run.dir).parent
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            log.warning(
                "wandb could not send all within %g s; what is left: wandb sync %s", self.timeout_s, folder
            )

    def _guard(self, action: Callable[[], None], what: str) -> None:
        if self._run is None and what != "start":
            return
        try:
            action()
        except Exception as error:  # whatever ails a logger, it is no reason to lose a run
            self._run = None
            reason = "wandb is not installed" if isinstance(error, ImportError) else _format_error(error)
            log.warning("wandb could not %s (%s); the run goes on without it.", what, reason)


def has_key() -> bool:
    """Whether wandb would find an API key without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _run_id(path: Path, new: bool) -> str:
    """The id of a run in wandb, made up where there is none or it has to be new, and kept in its folder."""
    if not new and path.exists():
        return path.read_text(encoding="ascii").strip()
    name = secrets.token_hex(4)
    atomic_write(path, f"{name}\n".encode())
    return name


def _format_error(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class Progress:
    """Loss, score and time left: a bar where stderr is a terminal, elsewhere a plain line at each logged step."""

    def __init__(
        self, iterations: int, done: int = 0, what: str = "meta-training", metric: Metric = ACCURACY
    ) -> None:
        self._metric = metric
        self._iterations, self._first, self._done = iterations, done, done
        self._began = time.monotonic()
        self._what = what
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=iterations, initial=done, desc=what, unit="step", dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def tick(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """metrics: train/loss, train/<metric> and perhaps val/<metric>."""
        name = self._metric.name
        shown = {} if self._metric.is_loss else {"loss": f"{metrics['train/loss']:.3f}"}
        for word, key in ((name, f"train/{name}"), ("val", f"val/{name}")):
            if key in metrics:
                shown[word] = self._metric.format(metrics[key], digits=1)
        if self._bar is not None:
            self._bar.set_postfix(shown)
            return
        rate = (time.monotonic() - self._began) / max(1, step - self._first)
        words = ", ".join(f"{name} {number}" for name, number in shown.items())
        left = tqdm.format_interval(rate * (self._iterations - step))
        # In one write, as ranks share stderr: print() would write the line's end by itself.
        sys.stderr.write(f"{self._what} {step}/{self._iterations}: {words}, {left} left\n")
