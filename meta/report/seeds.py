"""Arms that differ in nothing but their seeds are tries of one setting: what its mean over seeds is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from meta import anytime
from meta.paired import difference
from meta.report.arms import SEEDS, Arm, Sweep
from meta.task_results import ResultsError

__all__ = ["Setting", "settings"]

# 97.5% points of Student's t with 1, 2, ... degrees of freedom; the last one, a little large, stands for all beyond.
T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
)  # fmt: skip


class Setting(NamedTuple):
    """The finished arms of one setting."""

    values: dict[str, Any]  # differing settings, the seeds left out
    arms: Sequence[Arm]
    validation: float | None  # means over its arms
    test: float | None
    spread: tuple[float, float] | None  # the least and the largest test score
    mean: (
        float | None
    )  # mean over seeds of the paired difference to the reference setting; None for that itself
    ci95: float | None  # half-width of its 95% interval over seeds, by Student's t; None with fewer than two
    anytime95: (
        float | None
    )  # the same, at any number of seeds and for all settings at once; ∞ for too few seeds
    fewest: int  # seeds from which on that interval is finite
    pairs: int  # seeds that both settings were tried with


def settings(sweep: Sweep) -> list[Setting]:
    """From the best by mean validation score; [] unless some setting was tried with two seeds or more."""
    keys = [key for key in sweep.differing if key not in SEEDS]
    groups: dict[str, list[Arm]] = {}
    for arm in sweep.arms:
        if arm.status == "finished" and arm.test is not None:
            groups.setdefault(repr([arm.settings.get(key) for key in keys]), []).append(arm)
    if not any(len(arms) > 1 for arms in groups.values()):
        return []
    sign = 1 if sweep.metric.higher_is_better else -1

    def worth(arms: Sequence[Arm]) -> float:
        scores = [arm.validation[0] for arm in arms if arm.validation]
        return sign * fmean(scores) if scores else -math.inf

    ranked = sorted(groups.values(), key=worth, reverse=True)
    return [_setting(keys, arms, ranked[0], len(ranked) - 1) for arms in ranked]


def _setting(keys: Sequence[str], arms: Sequence[Arm], reference: Sequence[Arm], comparisons: int) -> Setting:
    validated = [arm.validation[0] for arm in arms if arm.validation]
    tested = [arm.test[0] for arm in arms if arm.test]
    differences = [] if arms is reference else _paired(arms, reference)
    level = 1 - 0.05 / max(comparisons, 1)
    return Setting(
        values={key: arms[0].settings.get(key) for key in keys},
        arms=arms,
        validation=fmean(validated) if validated else None,
        test=fmean(tested) if tested else None,
        spread=(min(tested), max(tested)) if tested else None,
        mean=fmean(differences) if differences else None,
        ci95=half_width(differences) if len(differences) > 1 else None,
        anytime95=anytime.half_width(differences, level=level) if differences else None,
        fewest=anytime.fewest(level=level),
        pairs=len(differences),
    )


def _paired(arms: Sequence[Arm], reference: Sequence[Arm]) -> list[float]:
    """arms − reference, seed by seed, each difference a mean over common test tasks."""
    by_seed = {_seeds(arm): arm for arm in reference}
    found = []
    for arm in arms:
        other = by_seed.get(_seeds(arm))
        if other is None or other.tested is None or arm.tested is None:
            continue
        try:
            found.append(difference(other.tested, arm.tested).mean)
        except ResultsError:  # tested on other tasks
            continue
    return found


def _seeds(arm: Arm) -> tuple[Any, ...]:
    return tuple(arm.settings.get(key) for key in SEEDS)


def half_width(values: Sequence[float]) -> float:
    """Of the 95% interval of the mean: t s / √n."""
    t = T975[min(len(values) - 2, len(T975) - 1)]
    return t * stdev(values) / math.sqrt(len(values))
