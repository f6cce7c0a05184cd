"""Classified images: each class's support and queries, and what the adapted model took the queries for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from meta.plots.canvas import DPI, GREEN, GREY, RED, heading, legend_below, save, styled
from tasks import Task

__all__ = ["tasks"]

CLASSES, SHOTS, QUERIES = 8, 5, 8  # at most so many of each are drawn
SIDE, GAP, ROW = (
    0.48,
    0.4,
    1.32,
)  # inches for each image; between support and query, and from row to row, in images
MARGIN = 0.05  # around each, in images
TITLE_WIDTH = 2.6  # inches that the title above a task takes


@styled
def tasks(pictured: Sequence[tuple[Task, torch.Tensor]], path: Path, *, title: str, ink: bool = True) -> None:
    """Tasks side by side, a class a row: its support images, then queries with the predictions, right or wrong.

    Args:
        pictured: each a single task of images x (n, channels, height, width), class by class, and the predicted labels
            of its queries (n,). One channel is ink on paper (with ink=False, light), three are RGB, four RGBA, of
            others the mean is shown; in [0, 1], or between the least and the largest value of the task. Of large tasks
            the first classes and images are drawn.
        path: of the PNG; PDF and SVG go beside it.
    """
    widths = [sum(_columns(task)) + GAP + 0.8 for task, _ in pictured]  # in images
    inches = [max(TITLE_WIDTH, SIDE * width) for width in widths]
    rows = max(_rows(task) for task, _ in pictured)
    above = 1.05 + 0.15 * max(len(_said(task)) for task, _ in pictured)  # inches, and for the legend
    figure = Figure(figsize=(max(5.0, sum(inches) + 0.4), rows * SIDE * ROW + above), layout="constrained")
    grid = figure.subplots(1, len(pictured), width_ratios=inches, squeeze=False)[0]
    for number, (axes, (task, predicted)) in enumerate(zip(grid, pictured, strict=True)):
        _task(axes, task, predicted.cpu(), f"task {number + 1}", rows, ink)
    heading(figure, title, 11)
    legend_below(
        figure,
        [
            Line2D([], [], color=GREEN, linewidth=3, label="✓ right"),
            Line2D([], [], color=RED, linewidth=3, linestyle=":", label="✗ n wrong, n was predicted"),
        ],
    )
    save(figure, path)


def _ways(task: Task) -> int:
    return int(task.support.y.max()) + 1


def _rows(task: Task) -> int:
    """How many classes are drawn."""
    return min(_ways(task), CLASSES)


def _columns(task: Task) -> tuple[int, int]:
    """How many support and how many query images of a class are drawn."""
    ways = _ways(task)
    return min(len(task.support) // ways, SHOTS), min(len(task.query) // ways, QUERIES)


def _said(task: Task) -> list[str]:
    """What a panel says under its title: which classes and channels it does not show."""
    channels = task.support.x.shape[1]
    said = [f"{_rows(task)} of {_ways(task)} classes shown"] if _rows(task) < _ways(task) else []
    return said + ([f"mean of {channels} channels"] if channels not in (1, 3, 4) else [])


def _task(axes: Axes, task: Task, predicted: torch.Tensor, title: str, rows: int, ink: bool) -> None:
    shots, queries = _columns(task)
    support_y, query_y = task.support.y.cpu(), task.query.y.cpu()
    support_x, query_x = _pixels(task, ink)
    placed: list[tuple[np.ndarray, float, int]] = []
    for label in range(_rows(task)):
        axes.text(-0.28, label * ROW + 0.5, str(label), ha="right", va="center", fontsize=9, weight="bold")
        for column, index in enumerate((support_y == label).nonzero().flatten()[:shots].tolist()):
            placed.append((support_x[index], column, label))
            _frame(axes, column, label, GREY, "-")
        for column, index in enumerate((query_y == label).nonzero().flatten()[:queries].tolist()):
            right = int(predicted[index]) == label
            colour, x = GREEN if right else RED, shots + GAP + column
            placed.append((query_x[index], x, label))
            _frame(axes, x, label, colour, "-" if right else ":")
            mark = "✓" if right else f"✗ {int(predicted[index])}"
            axes.text(x + 0.5, label * ROW + 1.14, mark, ha="center", va="center", fontsize=6.5, color=colour)
    _images(axes, placed)
    axes.text(shots / 2, -0.12, "support", ha="center", va="bottom", fontsize=8)
    axes.text(shots + GAP + queries / 2, -0.12, "query", ha="center", va="bottom", fontsize=8)
    accuracy = float((predicted == query_y).to(torch.float32).mean())
    heads = [f"{title}: {accuracy:.0%} of {len(query_y)} queries right", *_said(task)]
    axes.set_title("\n".join(heads), fontsize=9, pad=16)
    axes.set_xlim(-0.7, shots + GAP + queries + 0.1)
    axes.set_ylim(rows * ROW, -0.1)
    axes.set_aspect("equal", anchor="N")
    axes.axis("off")


def _pixels(task: Task, ink: bool) -> tuple[np.ndarray, np.ndarray]:
    """Support and query as RGB or RGBA (n, height, width, 3 or 4) in [0, 1], on one scale; what is not finite is 0."""
    support, query = (part.x.detach().cpu().to(torch.float32) for part in (task.support, task.query))
    finite = torch.cat([part[part.isfinite()] for part in (support, query)])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0

    def drawn(x: torch.Tensor) -> np.ndarray:
        x = ((x - low) / (high - low or 1.0)).nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)
        channels = x.shape[1]
        if channels not in (3, 4):  # of characters, whose one channel is ink, 1 is black
            x = (1 - x if channels == 1 and ink else x.mean(1, keepdim=True)).expand(-1, 3, -1, -1)
        return x.permute(0, 2, 3, 1).numpy()

    return drawn(support), drawn(query)


def _images(axes: Axes, placed: Sequence[tuple[np.ndarray, float, int]]) -> None:
    """All images (height, width, 3 or 4) of a panel, each with the place of its left side and its row.

    Set into one, for an image by itself takes a hundred times as long to draw as its pixels do.
    """
    height, width = placed[0][0].shape[:2]
    scale = max(1, round(DPI * SIDE / max(height, width)))  # pixels of the picture for each of an image
    side = round(max(height, width) * scale / (1 - 2 * MARGIN))
    right, rows = max(left for _, left, _ in placed) + 1, max(row for *_, row in placed) + 1
    canvas = np.zeros((round(rows * ROW * side), round(right * side), 4))
    for pixels, left, row in placed:
        image = np.ones((height * scale, width * scale, 4))
        image[..., : pixels.shape[2]] = pixels.repeat(scale, 0).repeat(scale, 1)
        top = round(row * ROW * side + (side - image.shape[0]) / 2)
        start = round(left * side + (side - image.shape[1]) / 2)
        canvas[top : top + image.shape[0], start : start + image.shape[1]] = image
    extent = (0, canvas.shape[1] / side, canvas.shape[0] / side, 0)
    axes.imshow(canvas, extent=extent, interpolation="nearest")


def _frame(axes: Axes, left: float, label: int, colour: str, style: str) -> None:
    side = 1 - 2 * MARGIN
    corner = left + MARGIN, label * ROW + MARGIN
    axes.add_patch(
        Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=1.2, linestyle=style)
    )
