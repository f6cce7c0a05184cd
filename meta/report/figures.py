"""The figures of the page, as SVG to be set into it: text stays text, and each arm's marks carry its number."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from meta.problems import Metric
from meta.report.arms import Arm

__all__ = ["AXES", "colours", "inner_steps", "learning_curve", "parallel_coordinates"]

# Okabe and Ito's colours, which colour-blind readers can tell apart, from the best arm on.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#444444")
INK, GRID, FAINT = "#33373d", "#e4e7eb", "#9aa1ab"
AXES = 8  # at most so many settings have an axis in parallel coordinates
BEHIND = {
    "facecolor": "white",
    "edgecolor": "none",
    "alpha": 0.75,
    "pad": 0.8,
}  # of labels that lines may cross
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}


def colours(ranked: Sequence[Arm]) -> dict[str, str]:
    """A colour for each arm, by rank: told apart where they are few, shades from the best to the worst where many."""
    if len(ranked) <= len(PALETTE):
        return {arm.name: PALETTE[place] for place, arm in enumerate(ranked)}
    shades = colormaps["viridis"](np.linspace(0.0, 0.92, len(ranked)))
    return {arm.name: to_hex(shade) for arm, shade in zip(ranked, shades, strict=True)}


def learning_curve(
    arms: Sequence[Arm], part: str, metric: Metric, colour: Mapping[str, str], chance: float | None
) -> str:
    """Score over iterations of every arm that logged one: "val" as measured, "train" as a running mean."""
    drawn = [(arm, np.array(arm.curve(part), dtype=float)) for arm in arms if arm.curve(part)]
    if not drawn:
        return ""

    def draw(axes: Axes) -> None:
        for arm, points in reversed(drawn):  # the best on top
            steps, scores = points.T
            values = running_mean(scores) if part == "train" else scores
            marker = "o" if part == "val" and len(steps) <= 30 else ""
            axes.plot(
                steps, values, color=colour[arm.name], marker=marker, markersize=3.5, linewidth=1.8,
                linestyle="-" if arm.status == "finished" else (0, (3, 2)), gid=f"arm:{arm.name}",
            )  # fmt: skip
        axes.set_xlabel("iteration (meta-update)")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _score_axis(axes, metric, chance)

    return _svg(draw, f"{metric.label} over iterations, {part}", width=5.6, height=3.5)


def inner_steps(arms: Sequence[Arm], metric: Metric, colour: Mapping[str, str], chance: float | None) -> str:
    """Test score after each inner step, with its 95% interval, of every arm with per-task results."""
    drawn = [(arm, arm.tested.by_step()) for arm in arms if arm.tested is not None]
    if not any(len(steps) > 1 for _, steps in drawn):
        return ""

    def draw(axes: Axes) -> None:
        for place, (arm, steps) in reversed(list(enumerate(drawn))):
            aside = 0.12 * ((place + 0.5) / len(drawn) - 0.5)  # so that intervals do not cover each other
            axes.errorbar(
                np.arange(len(steps)) + aside, [step.score for step in steps],
                yerr=np.nan_to_num([step.ci95 for step in steps]), color=colour[arm.name], marker="o", markersize=3.5,
                linewidth=1.5, capsize=2, elinewidth=1.0, gid=f"arm:{arm.name}",
            )[0].set_gid(f"arm:{arm.name}")  # fmt: skip
        axes.set_xlabel("inner steps")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        _score_axis(axes, metric, chance)

    return _svg(draw, f"{metric.label} on test tasks after each inner step", width=5.6, height=3.5)


def parallel_coordinates(
    arms: Sequence[Arm], keys: Sequence[str], metric: Metric, colour: Mapping[str, str]
) -> str:
    """An axis for each setting and one for the validation score, a line for each arm; without a score it ends early."""
    keys = keys[:AXES]
    if not keys or len(arms) < 2:
        return ""
    scales = [Scale([arm.settings.get(key) for arm in arms]) for key in keys]
    measured = [arm.validation[0] if arm.validation else None for arm in arms]
    scored = Scale([value for value in measured if value is not None], score=metric) if any(
        value is not None for value in measured
    ) else None  # fmt: skip

    def draw(axes: Axes) -> None:
        last = len(keys) if scored else len(keys) - 1
        for x in range(last + 1):
            axes.plot([x, x], [0, 1], color=FAINT, linewidth=1.2, zorder=1)
        for x, (name, scale) in enumerate(
            [*zip(keys, scales, strict=True), *([(f"validation {metric.name}", scored)] if scored else [])]
        ):
            axes.text(x, 1.09, _wrapped(name), ha="center", va="bottom", fontweight="bold")
            for place, label in scale.ticks():
                side, aside = ("left", 0.025) if x == last else ("right", -0.025)
                axes.text(x + aside, place, label, ha=side, va="center", fontsize=10, bbox=BEHIND, zorder=4)
                axes.plot([x], [place], marker="_", color=FAINT, markersize=7, zorder=2)
        for arm, value in reversed(list(zip(arms, measured, strict=True))):
            heights = [scale.place(arm.settings.get(key)) for key, scale in zip(keys, scales, strict=True)]
            if scored and value is not None:
                heights.append(scored.place(value))
            whole = value is not None and arm.status == "finished"
            axes.add_patch(
                PathPatch(
                    _bends(heights), facecolor="none", edgecolor=colour[arm.name], linewidth=2.0 if whole else 1.3,
                    linestyle="-" if whole else (0, (3, 2)), alpha=0.9 if whole else 0.6, gid=f"arm:{arm.name}",
                    zorder=3,
                )
            )  # fmt: skip
        axes.set_xlim(-0.35, last + 0.35)
        axes.set_ylim(-0.06, 1.32)
        axes.axis("off")

    return _svg(
        draw, "Settings and validation score of every arm", width=max(12.0, 1.6 * (len(keys) + 1)), height=4.2
    )


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
            if all(abs(self.place(value) - place) > 0.06 for place, _ in ticks):
                ticks.append((self.place(value), label))
        return ticks


def format_value(value: Any) -> str:
    """A setting's value as it is typed in an override, short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a tenth of the curve around each point; the window is cut off at the ends."""
    reach = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(0, np.arange(len(values)) - reach)
    after = np.minimum(len(values), np.arange(len(values)) + reach + 1)
    return (sums[after] - sums[first]) / (after - first)


def _score_axis(axes: Axes, metric: Metric, chance: float | None) -> None:
    axes.set_ylabel(metric.label)
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    if metric.fraction:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: metric.format(value, digits=0)))
    low, high = axes.get_ylim()
    if not metric.higher_is_better:
        axes.set_ylim(bottom=0)
    if (
        chance is not None and low - (high - low) < chance < high
    ):  # farther off it would press the curves flat
        axes.axhline(chance, color=FAINT, linestyle=":", linewidth=1.3, zorder=1)
        axes.annotate(
            f"chance, {metric.format(chance, digits=0)}", (1, chance), (-2, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="bottom", fontsize=9.5, color="#6b727c",
        )  # fmt: skip


def _bends(heights: Sequence[float]) -> Curve:
    """Through (0, h₀), (1, h₁), ..., level at every axis, so that lines can be told apart where they meet."""
    points, codes = [(0.0, heights[0])], [Curve.MOVETO]
    for x, (left, right) in enumerate(pairwise(heights)):
        points += [(x + 0.45, left), (x + 0.55, right), (x + 1.0, right)]
        codes += [Curve.CURVE4] * 3
    return Curve(points, codes)


def _wrapped(name: str) -> str:
    """A dotted key on lines of its own parts, where it is long."""
    return name if len(name) <= 16 else name.replace(".", ".\n").replace(" ", "\n")


def _svg(draw: Callable[[Axes], None], title: str, *, width: float, height: float) -> str:
    """An <svg> element to be set into a page; sizes in inches give its proportions, the page its size."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        out = io.StringIO()
        with rc_context(
            {"svg.hashsalt": title}
        ):  # the same page for the same runs; ids apart between figures
            FigureCanvasSVG(figure).print_svg(
                out, metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
            )
    text = out.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    inside = body[body.index(">") + 1 :]
    inside = re.sub(r'<g id="arm:([^"]*)">', r'<g class="mark" data-arm="\1">', inside)
    inside = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|LineCollection)_\d+"', "", inside
    )
    points_per_inch = 72
    box = f"0 0 {width * points_per_inch:g} {height * points_per_inch:g}"
    return f'<svg viewBox="{box}" role="img" aria-label="{title}">{inside.strip()}'
