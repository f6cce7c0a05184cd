"""A published number held against runs of its setting: both intervals, z, and a verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch

from meta.problems import Metric, metric_of
from meta.task_results import Results

__all__ = [
    "MARGIN",
    "Aggregate",
    "Published",
    "Verdict",
    "aggregate",
    "in_words",
    "page",
    "read_results",
    "verdict",
]

MARGIN = 0.01  # of a fraction: one percentage point; of anything else, a tenth of the published number
NORMAL = 1.96  # 97.5% point


class Published(NamedTuple):
    """What a paper reports. ci95: half-width over test tasks; None where it says nothing.

    checked: what number and settings were held against when they were written down.
    """

    score: float
    ci95: float | None
    source: str
    checked: str | None = None


class Verdict(NamedTuple):
    """word: reproduced, above, below, or not enough evidence; see verdict().

    difference: ours minus the published. ci95: half-width of its 95% interval. z: the difference in standard errors.
    """

    word: str
    difference: float
    ci95: float
    z: float


class Aggregate(NamedTuple):
    """The mean score of several seeds on the same test tasks, and how sure it is.

    over_tasks: half-width of the 95% interval over tasks, of each task's mean over seeds: 1.96 σ / √tasks. over_seeds:
    that over seeds, of each seed's mean over tasks: 1.96 s / √seeds, which with few seeds is itself a rough number;
    None with one. ci95: both together, √(over_tasks² + over_seeds²).
    """

    score: float
    over_tasks: float
    over_seeds: float | None
    ci95: float
    seeds: int
    tasks: int


def aggregate(runs: Sequence[Results]) -> Aggregate:
    """Of each run's results after its last inner step.

    Raises: ValueError where the runs were tested on different tasks.
    """
    first = runs[0].record.checksums
    for one in runs[1:]:
        if not torch.equal(one.record.checksums, first):
            raise ValueError(
                f"{one.path} and {runs[0].path} are of different test tasks; evaluate all with one evaluation.seed."
            )
    scores = torch.stack([one.record.scores[:, -1] for one in runs])  # (seeds, tasks)
    of_tasks = scores.mean(0)
    over_tasks = NORMAL * float(of_tasks.std()) / math.sqrt(len(of_tasks)) if len(of_tasks) > 1 else math.nan
    of_seeds = scores.mean(1).tolist()
    over_seeds = NORMAL * stdev(of_seeds) / math.sqrt(len(of_seeds)) if len(of_seeds) > 1 else None
    ci95 = math.hypot(over_tasks, over_seeds or 0.0)
    return Aggregate(fmean(of_seeds), over_tasks, over_seeds, ci95, len(runs), len(of_tasks))


def verdict(published: Published, score: float, ci95: float, metric: Metric) -> Verdict:
    """Which of the four it is.

    reproduced: the 95% interval of the difference has 0 in it and reaches no farther than MARGIN to either side of it;
    not enough evidence: it has 0 in it and is wider. The published interval counts as far as it is known. Better and
    worse are the reader's: above is more of the metric.
    """
    difference = score - published.score
    width = math.hypot(ci95, published.ci95 or 0.0)
    margin = MARGIN if metric.fraction else 0.1 * abs(published.score)
    z = (
        difference / (width / NORMAL)
        if width > 0
        else math.copysign(math.inf, difference)
        if difference
        else 0.0
    )
    if abs(difference) > width:
        word = "above" if difference > 0 else "below"
    else:
        word = "reproduced" if width <= margin else "not enough evidence"
    return Verdict(word, difference, width, z)


def in_words(word: str, metric: Metric) -> str:
    """A verdict for a reader who may not know the metric: "below, which is better" of an error."""
    if word not in ("above", "below"):
        return word
    return f"{word}, which is {'better' if (word == 'above') == metric.higher_is_better else 'worse'}"


def page(results: Sequence[Mapping[str, Any]], waiting: Mapping[str, Published], commands: str) -> str:
    """docs/reproduced.md: a row a published number, of the files that reproduce() left and of nothing else.

    Args:
        results: their contents.
        waiting: experiment → what is published, of those that have no file.
        commands: how the page is written again.
    """
    lines = [
        "# Published numbers, and ours",
        "",
        "Each row is a setting of a paper, trained to its published length and tested as published. *Over tasks* is",
        "the 95% interval over test tasks, *over seeds* that over seeds of training, where there are several; z counts",
        "the difference in standard errors of both numbers together. *Reproduced*: no clear difference, and an",
        "interval of at most a percentage point (of an error, a tenth). *Not enough evidence*: no clear difference,",
        "and a wider interval; where the published number's own is as wide, no run here can narrow it. Of one seed,",
        "a verdict speaks of that run. [What the published numbers and settings were checked",
        "against](#what-was-checked-against-what) is told below.",
        "",
        "| experiment | published | ours | over tasks | over seeds | difference | z | verdict | seeds | run |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in sorted(results, key=lambda one: one["experiment"]):
        metric = metric_of(one)
        scale, unit, places = (100, "", 2) if metric.fraction else (1, "", 3)
        seeds = "" if one["over_seeds"] is None else f"± {scale * one['over_seeds']:.{places}f}{unit}"
        run = (
            f"{one['iterations']:,} iterations, {one['hours']:.1f} h, {one['device']}; configuration "
            f"{one['configuration'][:8]}, data {one['data'][:8]}, commit {one['commit'][:8]}"
            f"{'; **changed**: ' + ' '.join(one['changed']) if one['changed'] else ''}"
        )
        lines.append(
            f"| {one['experiment']} | {_published(metric, one['published'])} | {metric.format(one['score'])} | "
            f"± {scale * one['over_tasks']:.{places}f} | {seeds} | "
            f"{scale * one['difference']:+.{places}f} ± {scale * one['difference_ci95']:.{places}f} | "
            f"{one['z']:+.1f} | **{in_words(one['verdict'], metric)}** | {one['seeds']} | {run} |"
        )
    for name, published in sorted(waiting.items()):
        lines.append(f"| {name} | {published.score:g} ({published.source}) | | | | | | not yet run | 0 | |")
    told = {one["experiment"]: one["published"].get("checked") for one in results}
    told |= {name: published.checked for name, published in waiting.items()}
    return "\n".join(lines) + f"\n\n{commands}\n{_checks(told)}"


def _checks(told: Mapping[str, str | None]) -> str:
    """What each number and its settings were held against, those together that were against the same."""
    against: dict[str, list[str]] = {}
    for name, what in sorted(told.items()):
        against.setdefault(what or "not known", []).append(name)
    rows = [f"| {what} | {', '.join(names)} |" for what, names in sorted(against.items())]
    return "\n".join(
        [
            "## What was checked against what",
            "",
            "Numbers and settings stand in `conf/experiment`. A repository is its authors' own, unless a number is",
            "*quoted* or *listed* there by others; what is *from memory* may be wrong.",
            "",
            "| checked against | experiments |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )


def _published(metric: Metric, published: Mapping[str, Any]) -> str:
    return f"{metric.format(published['score'], published['ci95'])} ({published['source']})"


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every <experiment>.json in a folder. Raises: ValueError naming a file that is none of ours."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not {"experiment", "verdict"} <= content.keys():
                raise ValueError("no verdict in it")
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} is not what scripts/reproduce.py leaves ({error}); move it away."
            ) from None
        found.append(content)
    return found
