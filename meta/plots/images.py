"""Images in rows: what was learned, or what was seen, what was made of it, and what there was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from meta.plots.canvas import heading, save, styled

__all__ = ["image_rows"]


@styled
def image_rows(
    rows: Sequence[tuple[str, Sequence[torch.Tensor]]],
    path: Path,
    *,
    title: str,
    columns: Sequence[str] = (),
    limits: tuple[float, float] | None = (0.0, 1.0),
    captions: Sequence[Sequence[str]] = (),
) -> None:
    """Rows of images, each with its name on the left.

    Args:
        rows: (name, images), the most in the first. Images are grey, (height, width), where a NaN, a pixel nobody
            knows, is drawn in colour, or RGB in [0, 1], (height, width, 3).
        path: of the PNG; PDF and SVG go beside it.
        columns: titles above the first row.
        limits: what is drawn black and white; None: each image's own least and largest.
        captions: of each row, what is written under its images.
    """
    width = len(rows[0][1])
    figure = Figure(
        figsize=(max(4.0, 1.1 * width + 1), (1.6 if captions else 1.25) * len(rows) + 0.6),
        layout="constrained",
    )
    heading(figure, title, 10)
    low, high = limits or (None, None)
    grid = figure.subplots(len(rows), width, squeeze=False)
    for number, (line, (name, images)) in enumerate(zip(grid, rows, strict=True)):
        for axes in line[len(images) :]:
            axes.set_axis_off()
        for place, (axes, image) in enumerate(zip(line, images, strict=False)):
            axes.set_facecolor("#5577AA")
            axes.imshow(
                image.double().cpu().numpy(), cmap="gray", vmin=low, vmax=high, interpolation="nearest"
            )
            axes.set_xticks([])
            axes.set_yticks([])
            if place == 0 and name:
                axes.set_ylabel(name, fontsize=9)
            if number == 0 and columns:
                axes.set_title(columns[place], fontsize=9)
            if captions:
                axes.set_xlabel(captions[number][place], fontsize=7)
    save(figure, path)
