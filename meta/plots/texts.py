"""Classified sequences of words, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from meta.plots.canvas import GREEN, RED, heading, save, styled

__all__ = ["texts"]

WIDTH = 90  # characters of a line
LINE = 0.22  # inches


@styled
def texts(blocks: Sequence[tuple[str, Sequence[tuple[str, int, int]]]], path: Path, *, title: str) -> None:
    """Blocks of lines, a task each.

    Args:
        blocks: each a heading, and (text, label, predicted label) of queries; what is long is cut.
        path: of the PNG; PDF and SVG go beside it.
    """
    count = sum(len(lines) + 2 for _, lines in blocks)
    figure = Figure(figsize=(9.0, LINE * count + 0.7), layout="constrained")
    heading(figure, title, 11)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(count, 0)
    row = 0
    for name, lines in blocks:
        axes.text(0, row + 0.5, name, fontsize=9, weight="bold", va="center")
        row += 1
        for text, label, predicted in lines:
            right = label == predicted
            said = f"✓ {label}" if right else f"✗ {label}, {predicted} was predicted"
            colour = GREEN if right else RED
            axes.text(0, row + 0.5, said, fontsize=8, va="center", color=colour)
            shown = text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
            axes.text(0.22, row + 0.5, shown, fontsize=8, va="center")
            row += 1
        row += 1
    save(figure, path)
