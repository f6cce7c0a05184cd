"""The page: what was compared, a table with paired differences, figures, and how the configurations differ."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from meta.paired import Difference, difference
from meta.problems import Metric
from meta.report import again, figures, parallel, seeds
from meta.report.arms import SEEDS, Arm, Sweep
from meta.task_results import ResultsError

__all__ = ["page"]

STATUSES = ("finished", "stopped", "failed", "unfinished", "inconsistent")
COLUMNS = 6  # at most so many settings have a column of their own in the table


class Row(NamedTuple):
    """An arm as the table shows it, ready-made words but for its whisker."""

    arm: Arm
    colour: str
    reference: bool
    settings: Sequence[str]
    validation: str
    test: str
    difference: str
    verdict: str  # better, worse or unclear; "" without a difference
    pairs: str
    whisker: Whisker | None
    steps: str
    time: str
    order: Sequence[float]  # to sort by: validation, test, difference; NaN last


class Whisker(NamedTuple):
    """An interval on a scale that all rows share, in percent of its width."""

    left: float
    width: float
    dot: float
    zero: float


def page(sweep: Sweep, *, baseline: str | None = None, now: datetime | None = None) -> str:
    """HTML that needs nothing else: no network, no file beside it.

    Args:
        baseline: name of the arm to compare with; None for the best by validation.
        now: when it was written; None for the present.
    Raises: ReportError for a baseline that has no result.
    """
    reference = sweep.reference(baseline)
    metric, ranked = sweep.metric, sweep.ranked()
    colour = figures.colours(ranked)
    differences = {arm.name: _difference(reference, arm) for arm in ranked}
    keys = sweep.differing
    swept = [key for key in keys if len({repr(arm.settings.get(key)) for arm in ranked if arm.settings}) > 1]
    chance = next(
        (arm.result["test/chance"] for arm in ranked if arm.result.get("test/chance") is not None), None
    )
    rows = [_row(arm, reference, differences, metric, colour, keys[:COLUMNS]) for arm in ranked]
    template = _environment().get_template("page.html.jinja")
    return template.render(
        title=_title(sweep, reference),
        sweep=sweep,
        metric=metric,
        rows=rows,
        fronts=[search for search in sweep.searches if search.front],
        on_front={name for search in sweep.searches if search.front for name in search.values},
        keys=keys,
        columns=keys[:COLUMNS],
        alike=_alike(rows),
        again=_again(sweep, reference),
        reference=reference,
        named=baseline is not None,
        summary=_summary(ranked, reference, differences, metric, baseline is not None),
        counted={status: [arm.status for arm in ranked].count(status) for status in STATUSES},
        settings=_settings(sweep, metric),
        seeds=SEEDS,
        validation_curve=Markup(figures.learning_curve(ranked, "val", metric, colour, chance)),
        training_curve=Markup(figures.learning_curve(ranked, "train", metric, colour, chance)),
        inner_steps=Markup(figures.inner_steps(ranked, metric, colour, chance)),
        parallel=Markup(parallel.parallel_coordinates(ranked, swept, metric, colour)),
        left_out=swept[parallel.AXES :],
        different={key: [_setting(arm, key) for arm in ranked] for key in keys},
        common={key: figures.format_value(value) for key, value in sweep.common.items()},
        protocol=_protocol(reference),
        unpaired=[
            arm.name for arm in ranked
            if arm.test and not differences[arm.name] and arm is not reference and arm.status == "finished"
        ],
        unrecorded=[arm.name for arm in ranked if not arm.recorded],
        written=(now or datetime.now()).strftime("%Y-%m-%d %H:%M"),
    )  # fmt: skip


def _alike(rows: Sequence[Row]) -> str:
    """The iterations of all arms where they have the same, and need no column; else ""."""
    steps = {row.steps for row in rows}
    return steps.pop() if len(rows) > 1 and len(steps) == 1 else ""


def _again(sweep: Sweep, reference: Arm | None) -> str | None:
    """The command line that trains the reference once more; None where nothing tells."""
    if reference is None:
        return None
    folder = sweep.folder if sweep.single else sweep.folder / reference.name
    return again.command(folder, reference.result.get("iterations"))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("meta.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(key: str) -> Markup:
    """A dotted key that may be broken behind its dots, and nowhere else."""
    return Markup("<wbr>").join(Markup.escape(part) for part in re.split(r"(?<=\.)", key))


def _difference(reference: Arm | None, arm: Arm) -> Difference | None:
    if reference is None or arm is reference or reference.tested is None or arm.tested is None:
        return None
    if arm.status != "finished":  # what results it has are of an earlier end, or of who knows which run
        return None
    try:
        return difference(reference.tested, arm.tested)
    except ResultsError:  # tested on other tasks, which the page says
        return None


def _row(
    arm: Arm,
    reference: Arm | None,
    differences: Mapping[str, Difference | None],
    metric: Metric,
    colour: Mapping[str, str],
    keys: Sequence[str],
) -> Row:
    found = differences[arm.name]
    return Row(
        arm=arm,
        colour=colour[arm.name],
        reference=arm is reference,
        settings=[_setting(arm, key) or "–" for key in keys],
        validation=_format_score(metric, arm.validation),
        test=_format_score(metric, arm.test),
        difference=format_difference(metric, found.mean, found.ci95) if found else "",
        verdict=verdict(metric, found) if found else "",
        pairs=f"{found.tasks} tasks" if found else "",
        whisker=_whisker(found, [one for one in differences.values() if one]) if found else None,
        steps=str(arm.lines[-1]["step"]) if arm.lines else "",
        time=_time(arm),
        order=[
            arm.validation[0] if arm.validation else math.nan,
            arm.test[0] if arm.test else math.nan,
            found.mean if found else (0.0 if arm is reference else math.nan),
        ],
    )


def _setting(arm: Arm, key: str) -> str:
    """What an arm has a setting at; "" where it has no such setting."""
    return figures.format_value(arm.settings[key]) if key in arm.settings else ""


def verdict(metric: Metric, found: Difference) -> str:
    """better, worse, or unclear where the interval holds zero."""
    if not found.clear:
        return "unclear"
    return "better" if (found.mean > 0) == metric.higher_is_better else "worse"


def format_difference(metric: Metric, mean: float, ci95: float | None) -> str:
    """ "+1.23 ± 0.45", in points of a percentage where the score is a fraction."""
    scale, places = (100, 2) if metric.fraction else (1, 3)
    margin = "" if ci95 is None or math.isnan(ci95) else f" ± {scale * ci95:.{places}f}"
    return f"{scale * mean:+.{places}f}".replace("-", "−") + margin


def _anytime(metric: Metric, one: seeds.Setting) -> str:
    """ "± 0.45, decided": the interval that may be looked at after every arm, and whether it leaves out zero."""
    if one.anytime95 is None or one.mean is None:
        return ""
    if math.isinf(one.anytime95):
        return f"from {one.fewest} seeds on"
    scale, places = (100, 2) if metric.fraction else (1, 3)
    decided = "decided" if abs(one.mean) > one.anytime95 else "open"
    return f"± {scale * one.anytime95:.{places}f}, {decided}"


def _format_score(metric: Metric, score: tuple[float, float] | None) -> str:
    if score is None:
        return ""
    value, margin = score
    return metric.format(value, None if math.isnan(margin) else margin, digits=1)


def _whisker(found: Difference, all_of_them: Sequence[Difference]) -> Whisker:
    def margin(one: Difference) -> float:
        return 0.0 if math.isnan(one.ci95) else one.ci95

    low = min(0.0, *(one.mean - margin(one) for one in all_of_them))
    high = max(0.0, *(one.mean + margin(one) for one in all_of_them))
    room = 0.04 * (high - low) or 1.0
    low, high = low - room, high + room

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    left = place(found.mean - margin(found))
    return Whisker(left, place(found.mean + margin(found)) - left, place(found.mean), place(0.0))


def _time(arm: Arm) -> str:
    seconds = arm.result.get("seconds") or (arm.lines[-1].get("seconds") if arm.lines else None)
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    )


def _title(sweep: Sweep, reference: Arm | None) -> str:
    protocol = reference.result.get("protocol", {}) if reference else {}
    if "dataset" not in protocol:
        return sweep.folder.resolve().name
    ways = (
        f"{protocol['ways']}-way {protocol['shots']}-shot"
        if "ways" in protocol
        else f"{protocol.get('shots')} shots"
    )
    return f"{protocol['dataset']}, {ways}"


def _summary(
    ranked: Sequence[Arm],
    reference: Arm | None,
    differences: Mapping[str, Difference | None],
    metric: Metric,
    named: bool,
) -> str:
    """In one or two sentences, what a reader in a hurry wants to know."""
    if reference is None:
        return "No arm has finished yet: there is no test result to compare."
    chosen = (
        "the baseline that was named"
        if named
        else "the best by validation"
        if reference.validation
        else "the first"
    )
    words = f"Arm {reference.name} is {chosen}" if len(ranked) > 1 else "This run"
    if reference.validation:
        words += f" ({_format_score(metric, reference.validation)})" if len(ranked) > 1 else ""
    if reference.test:
        words += " and" if len(ranked) > 1 else ""
        words += f" reaches {_format_score(metric, reference.test)} on {reference.result.get('test/tasks')} test tasks"
    words += "."
    verdicts = [verdict(metric, found) for found in differences.values() if found]
    if verdicts:
        parts = [
            f"{verdicts.count(kind)} {one if verdicts.count(kind) == 1 else many}"
            for kind, one, many in (
                ("worse", "is clearly worse", "are clearly worse"),
                ("better", "is clearly better", "are clearly better"),
                ("unclear", "cannot be told apart from it", "cannot be told apart from it"),
            )
            if kind in verdicts
        ]
        others = f"{len(verdicts)} other finished arms" if len(verdicts) > 1 else "other finished arm"
        if len(parts) == 1:
            kind = parts[0].removeprefix(f"{len(verdicts)} ")
            words += f" On the same test tasks, {'all ' if len(verdicts) > 1 else 'the '}{others} {kind}."
        else:
            words += f" On the same test tasks, of the {others} {', '.join(parts[:-1])} and {parts[-1]}."
    return words


def _settings(sweep: Sweep, metric: Metric) -> list[dict[str, Any]]:
    """The table over seeds."""
    return [
        {
            "values": [figures.format_value(value) for value in one.values.values()],
            "keys": list(one.values),
            "seeds": len(one.arms),
            "validation": "" if one.validation is None else metric.format(one.validation, digits=1),
            "test": "" if one.test is None else metric.format(one.test, digits=1),
            "spread": ""
            if one.spread is None
            else " to ".join(metric.format(end, digits=1) for end in one.spread),
            "difference": "" if one.mean is None else format_difference(metric, one.mean, one.ci95),
            "anytime": _anytime(metric, one),
            "pairs": one.pairs,
        }
        for one in seeds.settings(sweep)
    ]


def _protocol(reference: Arm | None) -> dict[str, str]:
    """What the reference's numbers must be published with."""
    if reference is None:
        return {}
    result = reference.result
    facts = {key: figures.format_value(value) for key, value in result.get("protocol", {}).items()}
    facts |= {f"version of {key}": str(value) for key, value in result.get("versions", {}).items()}
    return facts | ({"device": str(result["device"])} if "device" in result else {})
