"""How far a loop over steps is, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from tqdm import tqdm

from meta.problems import ACCURACY, Metric

__all__ = ["Progress"]


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

    def write(self, text: str) -> None:
        """Lines among the others, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            sys.stderr.write(f"{text}\n")

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
