"""The pictures of a run: its learning curve, and tasks with what the adapted model made of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, PercentFormatter

from meta.files import atomic_write
from meta.problems import ACCURACY, Metric
from tasks import Task

__all__ = ["fits", "inner_steps", "learning_curve", "tasks"]

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
DPI = 200
CLASSES, SHOTS, QUERIES = 8, 5, 8  # at most so many of each are drawn


def learning_curve(
    lines: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    title: str,
    chance: float | None = None,
    result: Mapping[str, Any] | None = None,
    metric: Metric = ACCURACY,
) -> None:
    """Loss and score over the iterations: every logged meta-batch as a dot, their running mean, validation, test.

    Args:
        lines: of metrics.jsonl.
        chance: the score of guessing, drawn as a dotted line.
        result: with test/<metric>, test/ci95 and test/tasks; drawn as a line with its interval.
        metric: what the score is; one that is the loss itself gets the one panel there is, on a logarithmic scale.
    """
    panels = [metric.name] if metric.is_loss else ["loss", metric.name]
    figure = Figure(figsize=(4.5 * len(panels), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    for axes, key in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _curve(axes, lines, key, interval=key == metric.name)
        axes.set_xlabel("iteration (meta-update)")
        axes.locator_params(axis="x", nbins=6)
        axes.set_ylabel("query loss (nats)" if key == "loss" else metric.label)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if key == "loss":
            axes.set_ylim(bottom=0)
        else:
            if metric.fraction:
                axes.set_ylim(0, 1.02)
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            if metric.is_loss:
                axes.set_yscale("log")
                for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                    formatted(FormatStrFormatter("%g"))
            if chance is not None:
                label = f"chance, {metric.format(chance, digits=0)}"
                axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.2, label=label)
            if result is not None:
                _test_line(axes, result, metric)
        if axes.get_legend_handles_labels()[0]:
            place = "lower right" if key == metric.name and metric.higher_is_better else "upper right"
            axes.legend(fontsize=8, loc=place, framealpha=0.9)
    _save(figure, path)


def tasks(pictured: Sequence[tuple[Task, torch.Tensor]], path: Path, *, title: str) -> None:
    """Tasks side by side, a class a row: its support images, then queries with the predictions, right or wrong.

    Args:
        pictured: each a single task of images x (n, 1, height, width) in [0, 1], class by class, and the predicted
            labels of its queries (n,). Of large tasks the first classes and images are drawn.
    """
    ways = [int(task.support.y.max()) + 1 for task, _ in pictured]
    rows = min(max(ways), CLASSES)
    columns = [_columns(task) for task, _ in pictured]
    width = sum(shots + queries for shots, queries in columns) + 1.3 * len(pictured)
    scale = 0.48  # inches for each image
    figure = Figure(figsize=(max(5.0, width * scale), rows * scale * 1.32 + 1.4), layout="constrained")
    grid = figure.subplots(1, len(pictured), width_ratios=[s + q + 1 for s, q in columns], squeeze=False)[0]
    for number, (axes, (task, predicted)) in enumerate(zip(grid, pictured, strict=True)):
        _task(axes, task, predicted.cpu(), f"task {number + 1}")
    figure.suptitle(title, fontsize=11)
    figure.legend(
        handles=[
            Line2D([], [], color=GREEN, linewidth=3, label="✓ right"),
            Line2D([], [], color=RED, linewidth=3, linestyle=":", label="✗ n wrong, n was predicted"),
        ],
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    _save(figure, path)


def fits(
    drawn: Sequence[tuple[Task, torch.Tensor, Sequence[torch.Tensor]]],
    errors: torch.Tensor,
    path: Path,
    *,
    title: str,
    error: str,
) -> None:
    """Regression tasks side by side: the function, the support points, the fit after 0, 1, ... gradient steps.

    Args:
        drawn: each a task of x and y (n, 1), a grid (points, 1), and the predictions on it after each step (points, 1).
        errors: (steps + 1,) mean over tasks of the query error, drawn in a panel of its own.
        error: what errors are, the label of their axis.
    """
    steps = len(errors) - 1
    shades = [shade(k, steps) for k in range(steps + 1)]
    figure = Figure(figsize=(3.4 * (len(drawn) + 1), 3.6), layout="constrained")
    when = "before and after each gradient step" if steps else "after adaptation"
    figure.suptitle(f"{title}: test tasks {when}", fontsize=12)
    *panels, last = figure.subplots(1, len(drawn) + 1, squeeze=False)[0]
    for number, (axes, (task, grid, after)) in enumerate(zip(panels, drawn, strict=True)):
        order = task.query.x[:, 0].argsort().cpu()
        x, y = (part[:, 0].cpu()[order].numpy() for part in (task.query.x, task.query.y))
        axes.plot(x, y, ".", color=GREY, markersize=4, label="queries")
        for k, (fit, colour) in enumerate(zip(after, shades, strict=True)):
            style = ":" if k == 0 < steps else "-"
            label = {0: "before", 1: "1 step"}.get(k, f"{k} steps") if steps else "adapted"
            axes.plot(
                grid[:, 0].cpu().numpy(),
                fit[:, 0].cpu().numpy(),
                style,
                color=colour,
                linewidth=1.6,
                label=label,
            )
        support = (task.support.x[:, 0].cpu().numpy(), task.support.y[:, 0].cpu().numpy())
        axes.plot(*support, "^", color=RED, markersize=7, label="support")
        axes.set_title(f"task {number + 1}", fontsize=10)
        axes.set_xlabel("x")
        axes.set_ylabel("y" if number == 0 else "")
    last.plot(range(steps + 1), errors.cpu().numpy(), "-", color=GREY, linewidth=1, zorder=1)
    last.scatter(range(steps + 1), errors.cpu().numpy(), c=shades, s=40, zorder=2)
    for k, value in enumerate(errors.tolist()):
        last.annotate(f"{value:.2f}", (k, value), (3, 6), textcoords="offset points", fontsize=8)
    last.set_ylim(bottom=0)
    last.set_xticks(range(steps + 1))
    last.set_xlabel("gradient steps")
    last.set_title(error, fontsize=10)
    for axes in (*panels, last):
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    _save(figure, path)


def shade(step: int, steps: int) -> tuple[float, float, float, float]:
    """The colour of a gradient step, darker from one to the next."""
    return colormaps["viridis_r"](0.12 + 0.88 * step / max(1, steps))


def inner_steps(
    steps: Sequence[tuple[float, float, float]],
    path: Path,
    *,
    title: str,
    metric: Metric,
    chance: float | None = None,
) -> None:
    """Score, with its 95% interval, and loss after 0, 1, ... inner steps; steps: (score, ci95, loss) of each."""
    scores, margins, losses = (np.array(column) for column in zip(*steps, strict=True))
    panels = [(metric.label, scores, np.nan_to_num(margins))]
    panels += [] if metric.is_loss else [("query loss", losses, None)]
    figure = Figure(figsize=(4.5 * len(panels), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    for number, (axes, (label, values, margin)) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)
    ):
        axes.errorbar(
            range(len(values)), values, yerr=margin, color=(BLUE, ORANGE)[number], marker="o", markersize=4,
            linewidth=1.6, capsize=2.5, label=None if margin is None else "mean, 95% interval",
        )  # fmt: skip
        axes.set_xlabel("inner steps (gradient steps on the support set)")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if number == 0 and metric.fraction:
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        else:
            axes.set_ylim(bottom=0)
        if number == 0 and chance is not None:
            said = metric.format(chance, digits=0)
            axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.2, label=f"chance, {said}")
        if number == 0:
            axes.legend(
                fontsize=8, loc="lower right" if metric.higher_is_better else "upper right", framealpha=0.9
            )
    _save(figure, path)


def _curve(axes: Axes, lines: Sequence[Mapping[str, Any]], key: str, interval: bool) -> None:
    train = [(line["step"], line[f"train/{key}"]) for line in lines if line.get(f"train/{key}") is not None]
    val = [line for line in lines if line.get(f"val/{key}") is not None]
    if train:
        steps, values = np.array(train, dtype=float).T
        axes.plot(steps, values, ".", color=BLUE, alpha=0.3, markersize=4, label="training meta-batch")
        axes.plot(steps, _running_mean(values), color=BLUE, linewidth=1.8, label="training, running mean")
    if val:
        margin = [line.get("val/ci95") or 0.0 for line in val] if interval else None
        axes.errorbar(
            [line["step"] for line in val],
            [line[f"val/{key}"] for line in val],
            yerr=margin,
            color=ORANGE,
            marker="o",
            markersize=4,
            linewidth=1.2,
            capsize=2.5,
            label="validation" if margin is None else "validation, 95% interval",
        )


def _test_line(axes: Axes, result: Mapping[str, Any], metric: Metric) -> None:
    mean, ci95 = result[f"test/{metric.name}"], result["test/ci95"] or 0.0
    axes.axhspan(mean - ci95, mean + ci95, color=RED, alpha=0.15, linewidth=0)
    label = f"test, {metric.format(mean, ci95, digits=1)}, {result['test/tasks']} tasks"
    axes.axhline(mean, color=RED, linestyle="--", linewidth=1.4, label=label)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a window of a tenth of the curve around each point; the window is cut off at the ends."""
    reach = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(0, np.arange(len(values)) - reach)
    last = np.minimum(len(values), np.arange(len(values)) + reach + 1)
    return (sums[last] - sums[first]) / (last - first)


def _columns(task: Task) -> tuple[int, int]:
    """How many support and how many query images of a class are drawn."""
    ways = int(task.support.y.max()) + 1
    return min(len(task.support) // ways, SHOTS), min(len(task.query) // ways, QUERIES)


def _task(axes: Axes, task: Task, predicted: torch.Tensor, title: str) -> None:
    shots, queries = _columns(task)
    classes = min(int(task.support.y.max()) + 1, CLASSES)
    support_y, query_y = task.support.y.cpu(), task.query.y.cpu()
    gap = 0.4  # between support and query
    for label in range(classes):
        axes.text(-0.28, label * 1.32 + 0.5, str(label), ha="right", va="center", fontsize=9, weight="bold")
        for column, index in enumerate((support_y == label).nonzero().flatten()[:shots].tolist()):
            _image(axes, task.support.x[index], column, label, GREY, "-")
        for column, index in enumerate((query_y == label).nonzero().flatten()[:queries].tolist()):
            right = int(predicted[index]) == label
            colour, x = GREEN if right else RED, shots + gap + column
            _image(axes, task.query.x[index], x, label, colour, "-" if right else ":")
            mark = "✓" if right else f"✗ {int(predicted[index])}"
            axes.text(
                x + 0.5, label * 1.32 + 1.14, mark, ha="center", va="center", fontsize=6.5, color=colour
            )
    accuracy = float((predicted == query_y).to(torch.float32).mean())
    ways = int(support_y.max()) + 1
    shown = f", {classes} of {ways} classes shown" if classes < ways else ""
    axes.text(shots / 2, -0.25, "support", ha="center", va="bottom", fontsize=8)
    axes.text(shots + gap + queries / 2, -0.25, "query", ha="center", va="bottom", fontsize=8)
    axes.set_title(f"{title}: {accuracy:.0%} of {len(query_y)} queries right{shown}", fontsize=9, pad=20)
    axes.set_xlim(-0.7, shots + gap + queries + 0.1)
    axes.set_ylim(classes * 1.32, -0.1)
    axes.set_aspect("equal")
    axes.axis("off")


def _image(axes: Axes, x: torch.Tensor, left: float, label: int, colour: str, style: str) -> None:
    top, margin = label * 1.32, 0.05
    extent = (left + margin, left + 1 - margin, top + 1 - margin, top + margin)
    axes.imshow(x[0].cpu().numpy(), cmap="gray_r", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    side = 1 - 2 * margin
    axes.add_patch(
        Rectangle(
            (left + margin, top + margin),
            side,
            side,
            fill=False,
            edgecolor=colour,
            linewidth=1.2,
            linestyle=style,
        )
    )


def _save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(drawn, dpi=DPI, format=path.suffix[1:])
    atomic_write(path, drawn.getvalue())
