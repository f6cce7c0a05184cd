"""The figures of the page, as SVG to be set into it: text stays text, and each arm's marks carry its number."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from meta.plots.curves import running_mean
from meta.problems import Metric
from meta.report.arms import Arm

__all__ = ["FAINT", "colours", "format_value", "inner_steps", "learning_curve", "svg"]

# Okabe and Ito's colours, which colour-blind readers can tell apart, from the best arm on.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#444444")
INK, GRID, FAINT = "#33373d", "#e4e7eb", "#9aa1ab"
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
            marker = "o" if len(steps) == 1 or (part == "val" and len(steps) <= 30) else ""
            axes.plot(
                steps, values, color=colour[arm.name], marker=marker, markersize=3.5, linewidth=1.8,
                linestyle="-" if arm.status == "finished" else (0, (3, 2)), gid=f"arm:{arm.name}",
            )  # fmt: skip
        axes.set_xlabel("iteration (meta-update)")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _score_axis(axes, metric, chance)

    return svg(draw, f"{metric.label} over iterations, {part}", width=5.6, height=3.5)


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

    return svg(draw, f"{metric.label} on test tasks after each inner step", width=5.6, height=3.5)


def format_value(value: Any) -> str:
    """A setting's value as it is typed in an override, short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


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
        axes.annotate(  # beside the panel, where no curve is
            f"chance,\n{metric.format(chance, digits=0)}", (1, chance), (4, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="left", va="center", fontsize=9.5, color="#6b727c",
        )  # fmt: skip


def svg(draw: Callable[[Axes], None], title: str, *, width: float, height: float) -> str:
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
