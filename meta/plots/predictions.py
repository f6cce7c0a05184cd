"""Predicted numbers against what they should have been, a panel for each output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from meta.plots.canvas import BLUE, GREY, heading, legend_below, note, plain_axes, save, styled

__all__ = ["predictions"]

PANELS = 6  # at most so many outputs are drawn


@styled
def predictions(
    true: np.ndarray, before: np.ndarray, after: np.ndarray, names: Sequence[str], path: Path, *, title: str
) -> None:
    """A point for each example, at its target and its prediction; on the diagonal they are equal.

    Args:
        true, before, after: (examples, outputs): targets, and predictions before and after adaptation. The axes keep to
            the targets' range and half of it on either side, and a panel says how many points lie outside.
        names: of the outputs; the first few are drawn.
        path: of the PNG; PDF and SVG go beside it.
    """
    shown = min(len(names), PANELS)
    figure = Figure(figsize=(max(4.6, 3.4 * shown), 3.7), layout="constrained")
    heading(figure, title, 11)
    handles = []
    for place, axes in enumerate(figure.subplots(1, shown, squeeze=False)[0]):
        wanted = true[:, place]
        low, high = float(wanted.min()), float(wanted.max())
        room = (high - low) / 2 or max(abs(high), 1.0)
        limits = low - room, high + room
        drawn = [("before", before[:, place], GREY, 0.35), ("adapted", after[:, place], BLUE, 0.8)]
        outside = 0
        for label, values, colour, alpha in drawn:
            inside = (values >= limits[0]) & (values <= limits[1])  # False of what is not finite
            outside += int((~inside).sum()) if label == "adapted" else 0
            handles += axes.plot(
                wanted[inside], values[inside], ".", color=colour, alpha=alpha, markersize=4, label=label
            )
        handles += axes.plot([low, high], [low, high], "-", color="black", linewidth=0.8, label="exact")
        axes.set_ylim(*limits)
        axes.set_xlabel("target")
        axes.set_ylabel("prediction" if place == 0 else "")
        axes.set_title(names[place], fontsize=10)
        said = [f"{outside} of {len(wanted)} outside the frame"] if outside else []
        if place == 0 and shown < len(names):
            said.append(f"{shown} of {len(names)} outputs shown")
        note(axes, said)
        plain_axes(axes)
    legend_below(figure, handles)
    save(figure, path)
