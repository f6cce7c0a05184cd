"""An X-ray of the meta-gradient: how large its parts are a layer, where curvature comes in, what estimators keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from meta.plots.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    heading,
    legend_below,
    note,
    plain_axes,
    save,
    styled,
)
from meta.xray.report import estimator_name

__all__ = ["xray"]

MOST_LAYERS = 40  # the largest so many are drawn
VALUED = 12  # columns of the heat map, up to which each cell says its number
ROW = 0.27  # inches


@styled
def xray(report: Mapping[str, Any], path: Path, *, title: str) -> None:
    """Four panels: norms of the first-order and the curvature part of each layer, relative to the layer's exact
    gradient; the share that each inner step's curvature has in it; the first-order cosine of each layer, by which the
    verdict goes; and the cosines of all estimators.

    Layers without a gradient are left out, and so are the smallest of more than 40; a note counts them.

    Args:
        report: what meta.xray.report() gives, also as read from its JSON.
        path: of the PNG; PDF and SVG go beside it.
    """
    with_gradient = [one for one in report["layers"] if one["curvature_share"] is not None]
    largest = sorted(with_gradient, key=lambda one: one["exact_norm"], reverse=True)[:MOST_LAYERS]
    layers = [one for one in with_gradient if one in largest]
    rows = [{"layer": "all", **report["whole"]}, *layers]
    steps, estimators = report["whole"]["steps"], report["estimators"]
    longest = max(len(row["layer"]) for row in rows)
    height = 2.0 + ROW * max(len(rows), len(estimators), 6)
    widths = [3.0, min(7.0, max(2.2, 0.5 * len(steps))), 2.2, 2.4]
    figure = Figure(figsize=(sum(widths) + 2.4 + 0.085 * longest, height), layout="constrained")
    heading(figure, title, 12)
    bars, heat, by_layer, by_estimator = figure.subplots(1, 4, width_ratios=widths)
    safe = report["criterion"]["first_order_cosine_low"]
    handles = _bars(bars, rows)
    left_out = len(report["layers"]) - len(layers)
    small = len(with_gradient) - len(layers)
    note(
        bars,
        [f"without a gradient, not drawn: {left_out - small} layers"] * bool(left_out - small)
        + [f"the largest {len(layers)} of {len(with_gradient)} layers"] * bool(small),
    )
    _heat_map(figure, heat, rows, steps)
    by_layer.set_title("first order, by layer", fontsize=10)
    handles += _cosines(
        by_layer, [(row["first_order_cosine"], row["first_order_ci95"]) for row in rows], safe
    )
    _layer_axis(by_layer, rows)
    by_layer.set_yticks(range(len(rows)), [""] * len(rows))
    by_estimator.set_title("estimators, all layers", fontsize=10)
    _cosines(by_estimator, [(one["cosine"], one["ci95"]) for one in estimators], safe, valued=True)
    by_estimator.set_ylim(len(estimators) - 0.4, -0.7)
    names = [estimator_name(one, report["tasks"]) for one in estimators]
    by_estimator.set_yticks(range(len(estimators)), names, fontsize=8)
    legend_below(figure, handles)
    save(figure, path)


def _bars(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> list[Artist]:
    places = np.arange(len(rows))
    handles: list[Artist] = []
    for key, colour, label, offset in (
        ("first_order_norm", BLUE, "first-order part", -0.2),
        ("curvature_norm", ORANGE, "curvature part", 0.2),
    ):
        sizes = [_relative(row[key], row["exact_norm"]) for row in rows]
        axes.barh(places + offset, sizes, 0.38, color=colour)
        handles.append(Patch(color=colour, label=label))
    handles.append(axes.axvline(1, color=GREY, linestyle=":", linewidth=1.2, label="exact gradient"))
    _layer_axis(axes, rows)
    axes.set_yticks(places, [row["layer"] for row in rows], fontsize=8)
    axes.set_xlabel("norm, relative to the exact gradient's")
    axes.set_title("size of the two parts", fontsize=10)
    plain_axes(axes)
    axes.grid(visible=False, axis="y")
    return handles


def _heat_map(
    figure: Figure, axes: Axes, rows: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]
) -> None:
    axes.set_title("share of each step's curvature, %", fontsize=10)
    _layer_axis(axes, rows)
    axes.set_yticks([])
    if not steps:
        axes.set_xticks([])
        note(axes, ["no inner steps"])
        return
    shares = np.array([[_number(entry["share"]) for entry in row["steps"]] for row in rows])
    finite = np.abs(shares[np.isfinite(shares)])
    largest = float(finite.max()) if len(finite) else 1.0
    reach = min(1.0, max(0.01, largest))  # colours go to 100%, or one layer would take them from all others
    image = axes.imshow(
        shares, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest"
    )
    ends = [(entry["steps"][0] + 1, entry["steps"][1] + 1) for entry in steps]
    every = max(1, -(-len(steps) // VALUED))
    axes.set_xticks(
        range(0, len(steps), every),
        [f"{a}" if a == b else f"{a}–{b}" for a, b in ends[::every]],
        fontsize=8,
    )
    axes.set_xlabel("inner step")
    axes.axhline(0.5, color="white", linewidth=2)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if len(steps) <= VALUED:
        for (row, column), share in np.ndenumerate(shares):
            if np.isfinite(share):
                colour = "white" if abs(share) > 0.6 * reach else "black"
                text = f"{100 * share:+.0f}".replace("-", "−") if abs(share) >= 0.005 else "0"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        return  # a bar of colours would say no more
    bar = figure.colorbar(
        image, ax=axes, fraction=0.05, pad=0.02, aspect=30, extend="both" if largest > reach else "neither"
    )
    bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if reach >= 0.05 else 1))
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _cosines(
    axes: Axes, cosines: Sequence[tuple[float | None, float | None]], safe: float, *, valued: bool = False
) -> list[Artist]:
    """Means with their intervals, a row each; gives what the legend names."""
    places = np.arange(len(cosines))
    means = np.array([_number(mean) for mean, _ in cosines])
    margins = np.array([margin or 0.0 for _, margin in cosines])
    bars: Any = axes.errorbar(
        means, places, xerr=margins, fmt="o", color=GREEN, markersize=4, capsize=2.5, linewidth=1.4,
        label="cosine, mean over tasks with 95% interval",
    )  # fmt: skip
    line = axes.axvline(safe, color=RED, linestyle="--", linewidth=1.2, label=f"safe from here on, {safe:g}")
    finite = np.isfinite(means)
    if valued:
        for place, mean in zip(places[finite], means[finite], strict=True):
            value = f"{mean:.2f}".replace("-0.00", "0.00").replace("-", "−")
            axes.annotate(value, (mean, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    low = float((means - margins)[finite].min()) if finite.any() else 0.0
    axes.set_xlim(min(0.0, max(-1.0, low)) - 0.1, 1.1)
    axes.set_xlabel("cosine to the exact gradient")
    plain_axes(axes)
    return [bars, line]


def _layer_axis(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Layers from the top downwards, all of them together first."""
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _relative(one: float | None, other: float | None) -> float:
    return np.nan if one is None or not other else one / other


def _number(value: float | None) -> float:
    return np.nan if value is None else value
