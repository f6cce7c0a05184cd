"""Scores and losses: over the iterations of a run, and over the inner steps of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from meta.plots.canvas import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    exploded,
    heading,
    legend_below,
    logarithmic_axis,
    note,
    plain_axes,
    save,
    styled,
)
from meta.problems import ACCURACY, Metric

__all__ = ["inner_steps", "learning_curve", "running_mean"]

MANY = 2000  # dots, beyond which PDF and SVG hold them as an image


@styled
def learning_curve(
    lines: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    title: str,
    chance: float | None = None,
    result: Mapping[str, Any] | None = None,
    metric: Metric = ACCURACY,
) -> None:
    """Loss and score over the iterations: every logged meta-batch as a dot, their running mean, validation, test.

    Values that are not finite are left out, and counted above their panel; a loss that explodes gets a
    logarithmic axis.

    Args:
        lines: of metrics.jsonl.
        path: of the PNG; PDF and SVG go beside it.
        chance: the score of guessing, drawn as a dotted line.
        result: with test/<metric>, test/ci95 and test/tasks; drawn as a line with its interval.
        metric: what the score is; one that is the loss itself gets the one panel there is, on a logarithmic scale
            unless some value is 0 or less.
    """
    panels = [metric.name] if metric.is_loss else ["loss", metric.name]
    figure = Figure(figsize=(4.5 * len(panels), 4.0 if len(panels) > 1 else 4.4), layout="constrained")
    heading(figure, title, 12 if len(panels) > 1 else 10)
    handles: list[Artist] = []
    for axes, key in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        handles += _curve(axes, lines, key, interval=key == metric.name)
        axes.set_xlabel("iteration (meta-update)")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_ylabel("query loss" if key == "loss" else metric.label)
        plain_axes(axes)
        if key == "loss":
            logged = [float(line[at]) for line in lines for at in _keys(key) if line.get(at) is not None]
            _loss_axis(axes, exploded(np.array(logged)))
        else:
            if metric.fraction:
                _percentages(axes)
            if metric.is_loss and axes.dataLim.y0 > 0:  # a log-likelihood may be on either side of 0
                logarithmic_axis(axes)
            handles += _chance_line(axes, chance, metric)
            if result is not None:
                handles += _test_line(axes, result, metric)
    legend_below(figure, handles)
    save(figure, path)


@styled
def inner_steps(
    steps: Sequence[tuple[float, float, float]],
    path: Path,
    *,
    title: str,
    metric: Metric,
    chance: float | None = None,
) -> None:
    """Score, with its 95% interval, and loss after 0, 1, ... inner steps; steps: (score, ci95, loss) of each.

    path: of the PNG; PDF and SVG go beside it.
    """
    scores, margins, losses = (np.array(column, dtype=float) for column in zip(*steps, strict=True))
    panels = [(metric.label, scores, np.nan_to_num(margins))]
    panels += [] if metric.is_loss else [("query loss", losses, None)]
    figure = Figure(figsize=(4.5 * len(panels), 4.0 if len(panels) > 1 else 4.4), layout="constrained")
    heading(figure, title, 12 if len(panels) > 1 else 10)
    handles: list[Artist] = []
    for number, (axes, (label, values, margin)) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)
    ):
        drawn = axes.errorbar(
            range(len(values)), values, yerr=margin, color=(BLUE, ORANGE)[number], marker="o", markersize=4,
            linewidth=1.6, capsize=2.5, label="mean, with 95% interval" if margin is not None else "mean loss",
        )  # fmt: skip
        handles.append(drawn)
        axes.set_xlabel("inner steps (gradient steps on the support set)")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        plain_axes(axes)
        if number == 0 and metric.fraction:
            _percentages(axes)
        else:
            _loss_axis(axes, exploded(values))
        if number == 0:
            handles += _chance_line(axes, chance, metric)
        missing = int((~np.isfinite(values)).sum())
        note(axes, [f"not finite at {missing} of {len(values)} steps"] * bool(missing))
    legend_below(figure, handles)
    save(figure, path)


def running_mean(values: np.ndarray, reach: int | None = None) -> np.ndarray:
    """The mean over a window around each point, which reaches so many points to each side; None: a tenth of the curve.

    At the beginning, where curves are steep, the window reaches as far ahead as there are points behind: the mean
    begins at the first point. At the end it is cut off, so that the last point alone does not pull it up or down.
    """
    reach = _reach(len(values)) if reach is None else reach
    places = np.arange(len(values))
    first, after = (
        np.maximum(0, places - reach),
        np.minimum(len(values), places + np.minimum(places, reach) + 1),
    )
    # Not from cumulative sums: in their differences one value of 1e18 would leave nothing of those behind it.
    return np.array([values[one:other].mean() for one, other in zip(first, after, strict=True)])


def _reach(points: int) -> int:
    """How far the window of the running mean goes to each side."""
    return max(1, points // 20)


def _keys(key: str) -> tuple[str, str]:
    return f"train/{key}", f"val/{key}"


def _finite(lines: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    return [line for line in lines if line.get(key) is not None and math.isfinite(line[key])]


def _curve(axes: Axes, lines: Sequence[Mapping[str, Any]], key: str, interval: bool) -> list[Any]:
    """Training and validation; gives what the legend names."""
    handles: list[Any] = []
    train_key, val_key = _keys(key)
    train, val = _finite(lines, train_key), _finite(lines, val_key)
    if train:
        steps, values = np.array([(line["step"], line[train_key]) for line in train], dtype=float).T
        handles += axes.plot(
            steps, values, ".", color=BLUE, alpha=0.3, markersize=4, label="training meta-batch",
            rasterized=len(steps) > MANY,
        )  # fmt: skip
        reach = _reach(sum(train_key in line for line in lines))  # the same for loss and score
        label = f"training, running mean of {2 * reach + 1}"
        handles += axes.plot(steps, running_mean(values, reach), color=BLUE, linewidth=1.8, label=label)
    if val:
        margin = [line.get("val/ci95") or 0.0 for line in val] if interval else None
        handles.append(
            axes.errorbar(
                [line["step"] for line in val],
                [line[val_key] for line in val],
                yerr=margin,
                color=ORANGE,
                marker="o",
                markersize=4,
                linewidth=1.2,
                capsize=2.5,
                label="validation (bars: 95% interval)",
            )
        )
    # JSON has no NaN: what was not finite is null in the file.
    logged = [line for line in lines if train_key in line or val_key in line]
    lost = [line for line in logged if line not in train and line not in val]
    note(axes, [f"not finite at {len(lost)} of {len(logged)} logged steps"] * bool(lost))
    return handles


def _chance_line(axes: Axes, chance: float | None, metric: Metric) -> list[Any]:
    if chance is None:
        return []
    label = f"chance, {metric.format(chance, digits=0)}"
    return [axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.2, label=label)]


def _test_line(axes: Axes, result: Mapping[str, Any], metric: Metric) -> list[Any]:
    mean, ci95 = result[f"test/{metric.name}"], result["test/ci95"] or 0.0
    if mean is None or not math.isfinite(mean):
        return axes.plot([], [], color=RED, linestyle="--", linewidth=1.4, label="test, not finite")
    axes.axhspan(mean - ci95, mean + ci95, color=RED, alpha=0.15, linewidth=0)
    label = f"test, {metric.format(mean, ci95, digits=1)}, {result['test/tasks']} tasks"
    return [axes.axhline(mean, color=RED, linestyle="--", linewidth=1.4, label=label)]


def _percentages(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _loss_axis(axes: Axes, logarithmic: bool) -> None:
    if logarithmic:
        logarithmic_axis(axes)
    elif axes.dataLim.y0 >= 0:
        axes.set_ylim(bottom=0)
