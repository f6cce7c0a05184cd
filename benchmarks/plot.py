"""The picture beside the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.record import Found

__all__ = ["draw"]

Panel = Callable[[Axes, Sequence[Found]], None]
SHORT = {
    "W1": "meta-step,\nstride 2",
    "W2": "meta-step,\nmax-pool",
    "W3": "20-way,\n5 steps",
    "W4": "MLP step",
    "W5": "tiny ops",
    "W6": "tasks drawn",
    "W8": "conv-4,\n32 filters",
    "W8-64": "conv-4,\n64 filters",
    "W9": "ResNet-12",
    "W9-84": "ResNet-12,\n84x84",
    "W9-18": "ResNet-18",
    "W10": "WRN block",
    "W11": "SIREN",
    "W12": "LSTM",
    "W13": "transformer",
    "W14": "sinusoid",
}


def draw(works: Mapping[str, Found], path: Path) -> None:
    """Bars: each peer's time over Neo's, with quartiles. Lines: W7's memory, if it is there.

    Works of several meta-batches have a row of their own, for the largest.
    """
    bars = [_largest(found) for found in works.values() if any(row.peer != "neo" for row in found.rows)]
    of_modules = [found for found in bars if found.rows[0].tasks is not None]
    others = [found for found in bars if found not in of_modules]
    unrolled = [found for found in works.values() if found.unrolled]
    above = [*[(_bars, others)] * bool(others), *[(_lines, unrolled)] * bool(unrolled)]
    rows = [panels for panels in (above, [(_bars, of_modules)] * bool(of_modules)) if panels]
    if not rows:
        return
    widths = [[_width(panel, founds) for panel, founds in panels] for panels in rows]
    figure = Figure(figsize=(max(map(sum, widths)) + 1.4, 4.2 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(rows), 1)
    for i, panels in enumerate(rows):
        inner = grid[i].subgridspec(1, len(panels), width_ratios=widths[i])
        for j, (panel, founds) in enumerate(panels):
            panel(figure.add_subplot(inner[j]), founds)
    figure.savefig(path, dpi=150)


def _largest(found: Found) -> Found:
    """Its rows of the largest meta-batch alone."""
    tasks = found.rows[-1].tasks
    if tasks is None:
        return found
    return replace(found, rows=tuple(row for row in found.rows if row.tasks == tasks))


def _width(panel: Panel, works: Sequence[Found]) -> float:
    return 3.6 if panel is _lines else max(3.0, sum(len(found.rows) for found in works) * 0.42)


def _bars(axis: Axes, compared: Sequence[Found]) -> None:
    peers = list(dict.fromkeys(row.peer for found in compared for row in found.rows if row.peer != "neo"))
    colours = {peer: f"C{i}" for i, peer in enumerate(peers)}
    at, ticks, labels, shown = 0.0, [], [], set()
    for found in compared:
        rows = [row for row in found.rows if row.peer != "neo"]
        for i, row in enumerate(rows):
            low, high = row.quartiles
            errors = np.abs([[row.ratio - low], [high - row.ratio]])
            label = None if row.peer in shown else row.peer.replace("_", " ")
            shown.add(row.peer)
            # From 1: up where Neo is faster, down where it is not.
            axis.bar(at + i, row.ratio - 1, 0.85, 1, color=colours[row.peer], label=label)
            axis.errorbar(at + i, row.ratio, errors, color="0.3", linewidth=1)
            axis.annotate(
                f"{row.ratio:.0f}" if row.ratio >= 100 else f"{row.ratio:.3g}",
                (at + i, max(high, row.ratio, 1)),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        ticks.append(at + (len(rows) - 1) / 2)
        tasks = f",\n{found.rows[0].tasks} tasks" if found.rows[0].tasks else ""
        labels.append(f"{found.name}\n{SHORT.get(found.name, found.title)}{tasks}")
        at += len(rows) + 1
    axis.axhline(1, color="0.2", linewidth=1)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axis.margins(y=0.15)
    axis.set_xticks(ticks, labels)
    axis.set_ylabel("time over Neo's (above 1 Neo is faster)")
    axis.legend(fontsize=8, loc="upper left", ncols=4)  # above the short bars: the last work has the tall one
    axis.spines[["top", "right"]].set_visible(False)


def _lines(axis: Axes, works: Sequence[Found]) -> None:
    (found,) = works
    steps = [row["inner_steps"] for row in found.unrolled]
    for kind, label in (("plain", "every step on the tape"), ("checkpoint", "checkpoint around each step")):
        axis.plot(steps, [row[f"{kind}_peak_bytes"] / 1e6 for row in found.unrolled], "o-", label=label)
    axis.set_xlabel("inner steps")
    axis.set_ylabel("peak memory, MB")
    axis.set_xticks(steps)
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])  # room for the legend
    axis.set_title(f"{found.name}, Neo", fontsize=10)
    axis.legend(fontsize=8, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)
