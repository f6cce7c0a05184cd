"""Functions of one number: the fit before and after each gradient step, and what is left of the error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from meta.plots.canvas import (
    GREY,
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
from tasks import Task

__all__ = ["fits", "shade"]

NAMED = 6  # at most so many steps are named in the legend, and valued in the panel of errors


@styled
def fits(
    drawn: Sequence[tuple[Task, torch.Tensor, Sequence[torch.Tensor]]],
    errors: torch.Tensor,
    path: Path,
    *,
    title: str,
    error: str,
) -> None:
    """Regression tasks side by side: the function, the support points, the fit after 0, 1, ... gradient steps.

    A panel keeps to the scale of its task's points: of a fit that has diverged it says so.

    Args:
        drawn: each a task of x and y (n, 1), a grid (points, 1), and the predictions on it after each step (points, 1).
        errors: (steps + 1,) mean over tasks of the query error, drawn in a panel of its own.
        path: of the PNG; PDF and SVG go beside it.
        error: what errors are, the label of their axis.
    """
    steps = len(errors) - 1
    shades = [shade(k, steps) for k in range(steps + 1)]
    figure = Figure(figsize=(3.4 * (len(drawn) + 1), 3.6), layout="constrained")
    when = "before and after each gradient step" if steps else "after adaptation"
    heading(figure, f"{title}: test tasks {when}", 12)
    *panels, last = figure.subplots(1, len(drawn) + 1, squeeze=False)[0]
    handles: list[Line2D] = []
    for number, (axes, (task, grid, after)) in enumerate(zip(panels, drawn, strict=True)):
        handles = _task(axes, task, grid, after, shades, f"task {number + 1}")
        axes.set_ylabel("y" if number == 0 else "")
    _errors(last, errors.double().cpu().numpy(), shades, error)
    for axes in (*panels, last):
        plain_axes(axes)
    legend_below(figure, handles)
    save(figure, path)


def shade(step: int, steps: int) -> tuple[float, float, float, float]:
    """The colour of a gradient step, darker from one to the next."""
    return colormaps["viridis_r"](0.12 + 0.88 * step / max(1, steps))


def _task(
    axes: Axes,
    task: Task,
    grid: torch.Tensor,
    after: Sequence[torch.Tensor],
    shades: Sequence[tuple[float, float, float, float]],
    title: str,
) -> list[Line2D]:
    """A panel; gives what its legend names."""
    steps = len(after) - 1
    support, query = (
        [values[:, 0].double().cpu().numpy() for values in (part.x, part.y)]
        for part in (task.support, task.query)
    )
    low, high = _frame(np.concatenate([support[1], query[1]]), [_values(fit) for fit in after])
    handles = axes.plot(*query, ".", color=GREY, markersize=4, label="queries", zorder=1)
    handles += axes.plot(*support, "^", color=RED, markersize=7, label="support", zorder=4)
    outside, broken = [], []
    for k, (fit, colour) in enumerate(zip(map(_values, after), shades, strict=True)):
        if not np.isfinite(fit).all():
            broken.append(k)
        elif fit.min() < low or fit.max() > high:
            outside.append(k)
        style = ":" if k == 0 < steps else "-"
        label = {0: "before", 1: "1 step"}.get(k, f"{k} steps") if steps else "adapted"
        line = axes.plot(grid[:, 0].cpu().numpy(), fit, style, color=colour, linewidth=1.6, label=label)
        if k in _some(steps):
            handles += line
    axes.set_ylim(low, high)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("x")
    note(axes, [*_after("outside the frame", outside), *_after("not finite", broken)])
    return handles


def _values(fit: torch.Tensor) -> np.ndarray:
    return fit[:, 0].double().cpu().numpy()


def _frame(points: np.ndarray, fits: Sequence[np.ndarray]) -> tuple[float, float]:
    """From the lowest to the highest of points and fits, as far as the points keep half of the height."""
    low, high = float(points.min()), float(points.max())
    room = (high - low) / 2 or max(abs(high), 1.0)
    values = np.concatenate(fits)
    values = values[np.isfinite(values)]
    if len(values):
        low, high = (
            min(low, max(float(values.min()), low - room)),
            max(high, min(float(values.max()), high + room)),
        )
    margin = 0.05 * ((high - low) or room)
    return low - margin, high + margin


def _errors(
    axes: Axes,
    errors: np.ndarray,
    shades: Sequence[tuple[float, float, float, float]],
    label: str,
) -> None:
    """What is left of the error after each step."""
    steps, finite = np.arange(len(errors)), np.isfinite(errors)
    axes.plot(steps[finite], errors[finite], "-", color=GREY, linewidth=1, zorder=1)
    axes.scatter(steps[finite], errors[finite], c=[shades[k] for k in steps[finite]] or None, s=40, zorder=2)
    axes.set_xlim(-0.05 * len(errors), len(errors) - 1 + 0.16 * len(errors))  # room for the last one's value
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("gradient steps")
    axes.set_title(label, fontsize=10)
    if exploded(errors):
        axes.margins(y=0.15)
        logarithmic_axis(axes)
    elif finite.any():
        axes.set_ylim(0, 1.15 * errors[finite].max() or 1.0)
    for k in _some(len(errors) - 1):
        if not finite[k]:
            continue
        # Beside the point, on the side that the line to the next one leaves free.
        rises = k + 1 < len(errors) and finite[k + 1] and errors[k + 1] > errors[k]
        value = f"{errors[k]:.2f}" if errors[k] < 1e4 else f"{errors[k]:.2g}"
        axes.annotate(value, (k, errors[k]), (3, -12 if rises else 6), textcoords="offset points", fontsize=8)
    note(axes, _after("not finite", steps[~finite].tolist()))


def _some(steps: int) -> list[int]:
    """The steps that are named: all, or the first, the last, and some between."""
    return sorted({round(place) for place in np.linspace(0, steps, min(steps + 1, NAMED)).tolist()})


def _after(what: str, steps: Sequence[int]) -> list[str]:
    """ "not finite after 1 to 5 steps", "... after 3 steps"; nothing where there are none."""
    if not steps:
        return []
    first, last = steps[0], steps[-1]
    several = len(steps) > 1 and len(steps) == last - first + 1
    said = f"{first} to {last}" if several else ", ".join(map(str, steps))
    return [f"{what} after {said} step{'s' if list(steps) != [1] else ''}"]
