"""What all pictures share: colours, how text is set, a legend that covers nothing, and files for screen and paper."""

from __future__ import annotations

import io
import logging
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from meta.files import atomic_write

__all__ = [
    "FORMATS",
    "STYLE",
    "exploded",
    "heading",
    "lay_out",
    "legend_below",
    "logarithmic_axis",
    "note",
    "plain_axes",
    "save",
    "styled",
]

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
DPI = 200  # of PNG, and of the images in PDF and SVG
EXPLODED = 100  # times its beginning: what a linear axis cannot show beside it
STYLE: Any = {
    "pdf.fonttype": 42,  # TrueType: journals refuse type 3, and text can be searched
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "neo",  # of ids, which are random otherwise
    "text.parse_math": False,  # a data set may have a dollar in its name
}
# format → how it is drawn; without the time, by which two drawings of one run would differ.
FORMATS: dict[str, Callable[[Figure, io.BytesIO], None]] = {
    "png": lambda figure, file: FigureCanvasAgg(figure).print_png(file),
    "pdf": lambda figure, file: FigureCanvasPdf(figure).print_pdf(file, metadata={"CreationDate": None}),
    "svg": lambda figure, file: FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None}),
}

logging.getLogger("fontTools").setLevel(
    logging.WARNING
)  # it tells of every table of every font that goes into a PDF

styled = rc_context(STYLE)  # decorates what makes a figure


@styled
def save(figure: Figure, path: Path) -> None:
    """Write a figure as path's name with .png, .pdf and .svg: all are drawn before the first is written."""
    lay_out(figure)
    drawn = {}
    for ending, draw in FORMATS.items():
        figure.dpi = DPI  # which PDF and SVG set to 72
        content = io.BytesIO()
        draw(figure, content)
        drawn[ending] = content.getvalue()
    for ending, whole in drawn.items():
        atomic_write(path.with_suffix(f".{ending}"), whole)


def lay_out(figure: Figure) -> None:
    """Give everything its place, once for all formats."""
    figure.dpi = DPI
    engine = figure.get_layout_engine()
    if engine is not None:
        FigureCanvasAgg(figure)  # by whose renderer texts are measured
        engine.execute(figure)
        figure.set_layout_engine("none")


def legend_below(figure: Figure, handles: Sequence[Artist]) -> Legend | None:
    """A legend under all panels, where it covers no data, in as few lines as the figure is wide enough for.

    handles: each with its label; of those with one label the first. None without any.
    """
    named = {str(handle.get_label()): handle for handle in reversed(handles)}
    shown = [named[label] for label in dict.fromkeys(str(handle.get_label()) for handle in handles)]
    renderer = FigureCanvasAgg(figure).get_renderer()
    for columns in range(len(shown), 0, -1):
        legend = figure.legend(
            handles=shown, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
        )
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            return legend
        legend.remove()
    return None


def heading(figure: Figure, title: str, fontsize: float) -> None:
    """A title over all panels, on as many lines as the figure's width asks for."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.set_layout_engine("constrained", h_pad=0.07)  # inches: panels have titles too
    text = figure.suptitle(title, fontsize=fontsize)
    for width in range(len(title), 10, -1):
        if text.get_window_extent(renderer).width <= 0.98 * figure.bbox.width:
            break
        text.set_text(textwrap.fill(title, width))


def plain_axes(axes: Axes) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def logarithmic_axis(axes: Axes) -> None:
    """On which numbers are written as people write them, few enough to be read."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    short = high < 100 * low  # within two decades: also 2, 5, 20 ...
    axes.yaxis.set_major_locator(LogLocator(numticks=8, subs=(1.0, 2.0, 5.0) if short else (1.0,)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def note(axes: Axes, sentences: Sequence[str]) -> None:
    """Say above a panel, under its title, what it does not show."""
    if sentences:
        title = axes.get_title()
        axes.set_title("\n".join([*([title] if title else []), *sentences]), fontsize=9)


def exploded(values: np.ndarray) -> bool:
    """Whether positive numbers, in their order, have become so large that only a logarithmic axis shows the others."""
    finite = values[np.isfinite(values)]
    return len(finite) > 0 and bool(finite.min() > 0 and finite.max() > EXPLODED * finite[0])
