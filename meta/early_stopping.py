"""Ending a run whose validation gets no better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meta.problems import Metric

__all__ = ["Patience"]


class Patience:
    """Counts validations since the best one, and gives a reason to stop when there are `patience` of them.

    Args:
        patience: > 0; 0: endless.
        lines: of metrics.jsonl, what the run had found when it was left, so that it goes on counting there.
    """

    def __init__(self, patience: int, metric: Metric, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        self.patience, self.metric = patience, metric
        self.best, self.at, self.since = metric.worst, 0, 0
        for line in lines:
            if f"val/{metric.name}" in line:
                self.told(line["step"], line[f"val/{metric.name}"])

    def told(self, step: int, score: float | None) -> str | None:
        """Of each validation, in their order; score: None for one that was not finite. The reason, or None."""
        if score is not None and self.metric.better(score, self.best):
            self.best, self.at, self.since = score, step, 0
        else:
            self.since += 1
        if not self.patience or self.since < self.patience:
            return None
        best = f"{self.metric.format(self.best)} after step {self.at}" if self.at else "none"
        return (
            f"stopped at step {step} by trainer.patience={self.patience}: as many validations in a row have not "
            f"improved on the best {self.metric.name}, {best}"
        )
