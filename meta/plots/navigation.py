"""Points that look for a goal: their ways before and after each gradient step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from meta.plots.canvas import RED, heading, legend_below, plain_axes, save, styled
from meta.plots.regression import shade

__all__ = ["paths"]


@styled
def paths(
    drawn: Sequence[tuple[torch.Tensor, Sequence[torch.Tensor]]],
    path: Path,
    *,
    title: str,
    reach: float = 1.0,
) -> None:
    """Tasks side by side: the goal, and episodes of the policy after 0, 1, ... gradient steps.

    Args:
        drawn: each a goal (2,), and positions (horizon, episodes, 2) after each step.
        path: of the PNG; PDF and SVG go beside it.
        reach: of the frame, [−reach, reach]², or as far as a goal is.
    """
    figure = Figure(figsize=(3.4 * len(drawn), 4.0), layout="constrained")
    heading(figure, f"{title}: episodes before and after each gradient step", 12)
    handles = []
    reach = max(reach, *(1.1 * float(goal.abs().max()) for goal, _ in drawn))
    for number, (axes, (goal, after)) in enumerate(
        zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True)
    ):
        steps = len(after) - 1
        handles = axes.plot(
            *goal.double().cpu().numpy(), "*", color=RED, markersize=14, label="goal", zorder=5
        )
        for step, positions in enumerate(after):
            label = {0: "before", 1: "1 step"}.get(step, f"{step} steps")
            ways = positions.double().cpu().numpy()
            lines = axes.plot(
                ways[..., 0], ways[..., 1], color=shade(step, steps), linewidth=1.0, alpha=0.8, label=label
            )
            handles += lines[:1]
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        axes.set_aspect("equal")
        axes.set_title(f"task {number + 1}", fontsize=10)
        plain_axes(axes)
    legend_below(figure, handles)
    save(figure, path)
