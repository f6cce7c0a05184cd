"""Parallel coordinates: an axis for each setting and one for the score, a line for each arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath
from matplotlib.ticker import LogLocator, MaxNLocator

from meta.problems import Metric
from meta.report.arms import Arm
from meta.report.figures import FAINT, format_value, svg

__all__ = ["AXES", "Scale", "parallel_coordinates"]

AXES = 8  # at most so many settings have an axis
ROOM = 0.35  # on both sides, in distances of two axes
TICK = 10  # points: labels
LONGEST = 12  # letters of a label


def parallel_coordinates(
    arms: Sequence[Arm], keys: Sequence[str], metric: Metric, colour: Mapping[str, str]
) -> str:
    """An axis for each setting and one for the validation score, a line for each arm; without a score it ends early.

    "" for less than two arms or two axes.
    """
    keys = keys[:AXES]
    if not keys or len(arms) < 2:
        return ""
    scales = [Scale([arm.settings.get(key) for arm in arms]) for key in keys]
    measured = [arm.validation[0] if arm.validation else None for arm in arms]
    scored = Scale([value for value in measured if value is not None], score=metric) if any(
        value is not None for value in measured
    ) else None  # fmt: skip

    named = [*zip(keys, scales, strict=True), *([(f"validation {metric.name}", scored)] if scored else [])]
    if len(named) < 2:
        return ""
    width = max(12.0, 1.6 * (len(keys) + 1))
    gaps = _gaps([scale for _, scale in named], width)

    def draw(axes: Axes) -> None:
        for x, ((name, scale), gap) in enumerate(zip(named, gaps, strict=True)):
            axes.text(x, 1.09, _wrapped(name), ha="center", va="bottom", fontweight="bold")
            for edge in {-gap, gap}:
                axes.plot([x + edge, x + edge], [0, 1], color=FAINT, linewidth=1.2, zorder=1)
                for place, _ in scale.ticks():
                    axes.plot([x + edge], [place], marker="_", color=FAINT, markersize=7, zorder=2)
            side, aside = {0: ("right", -0.025), len(named) - 1: ("left", 0.025)}.get(x, ("center", 0.0))
            for place, label in scale.ticks():
                axes.text(x + aside, place, label, ha=side, va="center", fontsize=TICK)
        for arm, value in reversed(list(zip(arms, measured, strict=True))):
            heights = [scale.place(arm.settings.get(key)) for key, scale in zip(keys, scales, strict=True)]
            if scored and value is not None:
                heights.append(scored.place(value))
            whole = value is not None and arm.status == "finished"
            axes.add_patch(
                PathPatch(
                    _bends(heights, gaps), facecolor="none", edgecolor=colour[arm.name],
                    linewidth=2.0 if whole else 1.3, linestyle="-" if whole else (0, (3, 2)),
                    alpha=0.9 if whole else 0.6, gid=f"arm:{arm.name}", zorder=3,
                )
            )  # fmt: skip
        axes.set_xlim(-ROOM, len(named) - 1 + ROOM)
        axes.set_ylim(-0.06, 1.32)
        axes.axis("off")

    return svg(draw, "Settings and validation score of every arm", width=width, height=4.2)


def _gaps(scales: Sequence[Scale], width: float) -> list[float]:
    """Half the width of every axis: as wide as its labels, for they stand inside it, where no line is.

    Lines end on its one side and go on, at the same height, on the other. Of the first and the last, whose labels stand
    outside, 0.

    width: of the figure, in inches.
    """
    unit = 72 * width / (len(scales) - 1 + 2 * ROOM)  # points between two axes

    def widest(scale: Scale) -> float:
        labels = [label for _, label in scale.ticks() if label]
        return max((TextPath((0, 0), label, size=TICK).get_extents().width for label in labels), default=0.0)

    return [0.0, *(min(0.4, (widest(scale) / 2 + 5) / unit) for scale in scales[1:-1]), 0.0]


class Scale:
    """Where a setting's values stand on an axis from 0 to 1: by size (logarithmic over decades), or evenly by kind."""

    def __init__(self, values: Sequence[Any], score: Metric | None = None) -> None:
        self.score = score
        given = [value for value in values if value is not None]
        self.numeric = bool(given) and all(
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            for value in given
        )
        if self.numeric:
            low, high = min(given), max(given)
            self.log = score is None and low > 0 and high / low >= 8
            self.low, self.high = (math.log(low), math.log(high)) if self.log else (float(low), float(high))
            self.kinds: list[Any] = sorted(set(given))
        else:
            self.kinds = list({repr(value): value for value in values}.values())

    def place(self, value: Any) -> float:
        if not self.numeric:
            places = [repr(kind) for kind in self.kinds]
            return places.index(repr(value)) / (len(places) - 1) if len(places) > 1 else 0.5
        if value is None:
            return 0.0
        at = math.log(value) if self.log else float(value)
        return (at - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """(place, label), none too close to another."""
        values = self.kinds
        if self.numeric and (self.score or len(self.kinds) > 6):
            locator = LogLocator(subs=(1, 2, 5)) if self.log else MaxNLocator(6, steps=[1, 2, 5, 10])
            low, high = min(self.kinds), max(self.kinds)
            values = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
        ticks: list[tuple[float, str]] = []
        for value in values:
            label = self.score.format(value, digits=0) if self.score else format_value(value)
            label = label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
            if all(abs(self.place(value) - place) > 0.06 for place, _ in ticks):
                ticks.append((self.place(value), label))
        return ticks


def _bends(heights: Sequence[float], gaps: Sequence[float]) -> Curve:
    """From (0, h₀) to (1 − g₁, h₁), from (1 + g₁, h₁) to (2 − g₂, h₂) ..., level at every axis.

    So that lines can be told apart where they meet.
    """
    points: list[tuple[float, float]] = []
    codes: list[Any] = []
    for x, (left, right) in enumerate(pairwise(heights)):
        start, end = x + gaps[x], x + 1 - gaps[x + 1]
        middle = (start + end) / 2
        points += [(start, left), (middle - 0.05, left), (middle + 0.05, right), (end, right)]
        codes += [Curve.MOVETO, *[Curve.CURVE4] * 3]
    return Curve(points, codes)


def _wrapped(name: str) -> str:
    """A dotted key on lines of its own parts, where it is long."""
    return name if len(name) <= 16 else name.replace(".", ".\n").replace(" ", "\n")
