"""What a task takes by one estimator, for any number of inner steps, from a few that were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["EXACT", "Row", "Segments", "length"]

EXACT = ("reverse", "mixed")


@dataclass(frozen=True)
class Row:
    """One estimator: what a task takes of memory and time, for any number of inner steps.

    Of tensors, a task's peak is affine in the inner steps: what the tape holds of each, and what one at a time needs.

    points: inner steps → (bytes, seconds), measured.
    limit: inner steps beyond which memory no longer grows.
    tape: Policy → bytes that the tape holds, at the most steps measured.
    refused: why the algorithm does not take it, in words.
    choosable: whether the algorithm's configuration can name another.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    points: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    limit: float = math.inf
    tape: Mapping[str, int] = field(default_factory=dict)
    refused: str = ""
    choosable: bool = True

    @property
    def exact(self) -> bool:
        return self.name in EXACT

    def settings_at(self, steps: int) -> dict[str, Any]:
        return {"meta_gradient": self.name, **self.settings}

    def title_at(self, steps: int) -> str:
        return ", ".join(
            [self.name, *(f"{key.partition('_')[2]} {value}" for key, value in self.settings.items())]
        )

    def bytes(self, steps: int) -> float:
        return self._at(min(steps, self.limit), 0)

    def seconds(self, steps: int) -> float:
        return max(self._at(steps, 1), 0.0)

    def per_step(self, what: int = 0) -> float:
        """Bytes (0) or seconds (1) of an inner step more."""
        *_, last = self.points
        if len(self.points) == 1:
            return 0.0
        first = list(self.points)[0 if what else -2]  # of time, which is noisy, the longest line there is
        slope = (self.points[last][what] - self.points[first][what]) / (last - first)
        return max(slope, 0.0) if what else slope

    def _at(self, steps: float, what: int) -> float:
        if steps in self.points:
            return self.points[int(steps)][what]
        last = max(self.points)
        return self.points[last][what] + (steps - last) * self.per_step(what)


@dataclass(frozen=True)
class Segments(Row):
    """mixed in segments, which keep a step's parameters for each segment, and for the steps of one at a time.

    points: one, of two segments, of which the first is recomputed and the last is kept. Whether the query's gradient or
    a segment's is the peak, more than segments of so many steps can tell, is not known: of longer ones the bytes are
    the most that it can be.
    each: inner steps to a segment; None: √steps.
    """

    @property
    def made(self) -> bool:
        """Whether there are segments at all: where an algorithm looks at every iterate, there are none."""
        return any(name.startswith("checkpoint(") for name in {*self.tape} - {*self.mixed.tape})

    mixed: Row = field(default_factory=lambda: Row("mixed"))
    each: int | None = None

    def settings_at(self, steps: int) -> dict[str, Any]:
        return {"meta_gradient": "mixed", "mixed_segment": self.each or length(steps)}

    def title_at(self, steps: int) -> str:
        return f"mixed, segment {self.each or length(steps)}"

    def bytes(self, steps: int) -> float:
        ((tried, (size, _)),) = self.points.items()
        each = self.each or length(steps)
        more = math.ceil(steps / each) - 2 + max(min(each, steps) - tried // 2, 0)
        return size + more * self.mixed.per_step()

    def seconds(self, steps: int) -> float:
        ((tried, (_, seconds)),) = self.points.items()
        again = max(seconds - self.mixed.seconds(tried), 0.0) / (tried // 2)
        return self.mixed.seconds(steps) + max(steps - (self.each or length(steps)), 0) * again


def length(steps: int) -> int:
    return max(1, round(math.sqrt(steps)))
