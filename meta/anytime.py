"""Intervals of a mean that hold at any time of looking, so that a comparison may be stopped when it is decided.

A 95% interval is right for one look at a number of values that was fixed beforehand. Looked at after each value, until
it leaves out zero, it is wrong far more often than 5% of the time: in more than a quarter of cases within 200 values
(tests/meta/test_anytime.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

__all__ = ["fewest", "half_width"]


def half_width(values: Sequence[float], *, level: float = 0.95, effect: float = 3.0) -> float:
    """Of an interval around the mean of values that holds at all numbers of values at once, with probability `level`.

    The sequential t-test with a normal prior N(0, effect²) on mean / σ and the right Haar prior on σ, inverted: its
    Bayes factor is a test martingale, so that it exceeds 1 / (1 - level) at any time, if the mean is the true one, with
    probability at most 1 - level (Ville's inequality). With n values of standard deviation s, g = effect² and
    α = 1 - level:

        r = ((1 + n g) / α²)^(1/n),   u = (r - 1) / (1 - r / (1 + n g)),   half width = s √((n - 1) u / n)

    Exact for independent normal values of unknown variance, as differences over seeds nearly are; for others as the
    central limit theorem has it. Pérez-Ortiz, Lardy, de Heide, Grünwald 2024, Annals of Statistics 52 (e-statistics and
    group invariance); Wang and Ramdas 2023, arXiv:2310.03722 (anytime-valid t-tests).

    Args:
        values: paired differences, say, in the order in which they came.
        level: in (0, 1). For k comparisons that are all to hold, 1 - (1 - level) / k (Bonferroni).
        effect: mean / σ, in size, for which the interval is made narrow, > 0; it holds for any. 3 suits seeds, of
            which there are few; 0.3 suits tasks, of which there are hundreds.
    Returns: ∞ where there are too few values for any interval; 0 where all are equal and there are enough.
    """
    if not 0 < level < 1 or effect <= 0:
        raise ValueError(
            f"level must be in (0, 1) and effect above 0, got level={level!r} and effect={effect!r}."
        )
    n = len(values)
    if n < 2:
        return math.inf
    r, widening = _factors(n, level, effect)
    if r >= widening:
        return math.inf
    u = (r - 1) / (1 - r / widening)
    return stdev(values) * math.sqrt((n - 1) * u / n)


def fewest(*, level: float = 0.95, effect: float = 3.0) -> int:
    """The number of values with which half_width, of the same level and effect, is first finite."""
    n = 2
    while (factors := _factors(n, level, effect))[0] >= factors[1]:
        n += 1
    return n


def _factors(n: int, level: float, effect: float) -> tuple[float, float]:
    """r, and 1 + n g."""
    widening = 1 + n * effect**2
    return (widening / (1 - level) ** 2) ** (1 / n), widening
