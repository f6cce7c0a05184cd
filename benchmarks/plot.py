"""The picture beside the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.record import Found

__all__ = ["draw"]

SHORT = {
    "W1": "meta-step,\nstride 2",
    "W2": "meta-step,\nmax-pool",
    "W3": "20-way,\n5 steps",
    "W4": "MLP step",
    "W5": "tiny ops",
    "W6": "tasks drawn",
}


def draw(works: Mapping[str, Found], path: Path) -> None:
    """Bars: each peer's time over Neo's, with quartiles. Lines: W7's memory, if it is there."""
    compared = [found for found in works.values() if any(row.peer != "neo" for row in found.rows)]
    unrolled = [found for found in works.values() if found.unrolled]
    wide = max(3.0, sum(len(found.rows) for found in compared) * 0.42) if compared else 0.0
    panels = [wide] * bool(compared) + [3.6] * bool(unrolled)
    if not panels:
        return
    figure = Figure(figsize=(sum(panels) + 1.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, len(panels), squeeze=False, width_ratios=panels)[0])
    if compared:
        _bars(axes[0], compared)
    if unrolled:
        _lines(axes[-1], unrolled[0])
    figure.savefig(path, dpi=150)


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
        labels.append(f"{found.name}\n{SHORT.get(found.name, found.title)}")
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


def _lines(axis: Axes, found: Found) -> None:
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
