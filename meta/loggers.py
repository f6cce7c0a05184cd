"""Where a run can be watched, besides the files that it always writes."""

from __future__ import annotations

import logging
import netrc
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from meta.objectives import ACCURACY, Metric

__all__ = ["Logger", "Progress", "Wandb"]

log = logging.getLogger(__name__)


class Logger:
    """Sees what a run does; this one looks away (logger=none)."""

    def start(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        """Once, before the first step. config: resolved, plain."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """At every logged step."""

    def finish(self, result: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        """Once, at the end of a run that got there."""


class Wandb(Logger):
    """Weights & Biases. Online when there is an API key (WANDB_API_KEY or ~/.netrc), otherwise offline; never a prompt.

    WANDB_MODE has the last word. Whatever goes wrong, not installed or no connection, costs one line of warning and no
    more: the run goes on without it.

    Args:
        project: of the run.
        name: of the run in the project; None for one made up by wandb.
        timeout_s: how long its start may take, in seconds.
    """

    def __init__(self, project: str = "neo", name: str | None = None, timeout_s: float = 30.0) -> None:
        self.project, self.name, self.timeout_s = project, name, timeout_s
        self._wandb: Any = None
        self._run: Any = None

    def start(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        def begin() -> None:
            import wandb

            mode: Any = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
            self._wandb = wandb
            self._run = wandb.init(
                project=self.project,
                name=self.name,
                dir=str(folder),
                config=dict(config),
                mode=mode,
                tags=["resumed"] if resumed else None,
                settings=wandb.Settings(silent=True, console="off", init_timeout=self.timeout_s),
            )

        self._guard(begin, "start")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._guard(lambda: self._run.log(dict(metrics), step=step), "log")

    def finish(self, result: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        def end() -> None:
            self._run.log({name: self._wandb.Image(str(path)) for name, path in pictures.items()})
            self._run.summary.update(dict(result))
            self._run.finish()

        self._guard(end, "finish")

    def _guard(self, action: Callable[[], None], what: str) -> None:
        if self._run is None and what != "start":
            return
        try:
            action()
        except Exception as error:  # whatever ails a logger, it is no reason to lose a run
            self._run = None
            reason = (
                "wandb is not installed"
                if isinstance(error, ImportError)
                else f"{type(error).__name__}: {error}"
            )
            log.warning(
                "wandb could not %s (%s); the run goes on without it.", what, " ".join(reason.split())
            )


def has_key() -> bool:
    """Whether wandb would find an API key without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


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
                shown[word] = self._metric.said(metrics[key], digits=1)
        if self._bar is not None:
            self._bar.set_postfix(shown)
            return
        rate = (time.monotonic() - self._began) / max(1, step - self._first)
        words = ", ".join(f"{name} {number}" for name, number in shown.items())
        left = tqdm.format_interval(rate * (self._iterations - step))
        print(f"{self._what} {step}/{self._iterations}: {words}, {left} left", file=sys.stderr, flush=True)
