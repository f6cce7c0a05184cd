"""How far a result moves with its protocol: a row for each, differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from meta.plots.canvas import BLUE, GREY, heading, plain_axes, save, styled
from meta.problems import metric_of

__all__ = ["protocols"]

ROW = 0.27  # inches


@styled
def protocols(result: Mapping[str, Any], path: Path, *, title: str) -> None:
    """Differences to the run's own protocol with 95% intervals; grey where the interval has 0 in it.

    No adaptation at all is left out: it is no protocol, and would set the scale.

    Args:
        result: what meta.protocols.compare_protocols() gives; rows without a score are left out.
        path: of the PNG; PDF and SVG go beside it.
    """
    metric = metric_of(result)
    rows = [row for row in result["rows"] if row["score"] is not None and row["setting"] != "inner_steps=0"]
    figure = Figure(figsize=(7.0, 1.9 + ROW * max(len(rows), 3)), layout="constrained")
    heading(figure, title, 10)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.errorbar(
            row["difference"], place, xerr=row["difference_ci95"] or 0.0, fmt="o", markersize=4, capsize=2.5,
            color=BLUE if row["clear"] else GREY,
        )  # fmt: skip
    axes.axvline(0.0, color=GREY, linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [row["setting"] for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value if metric.fraction else value:+.3g}")
    )
    unit = " (points)" if metric.fraction else ""
    axes.set_xlabel(
        f"difference of {metric.name}{unit} to the run's own {metric.format(result['score'], result['ci95'])}\n"
        "bars: 95% interval over tasks; grey: 0 is in it",
        fontsize=9,
    )
    plain_axes(axes)
    save(figure, path)
