"""Intervals that hold at any time of looking: against the test that they invert, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate

from meta import anytime


def bayes_factor(values: np.ndarray, mean: float, effect: float) -> float:
    """Of the sequential t-test, by quadrature: the noncentral t-likelihood over its prior, by the one at 0."""
    from scipy.stats import nct
    from scipy.stats import norm as normal
    from scipy.stats import t as student

    n = len(values)
    t = math.sqrt(n) * (values.mean() - mean) / values.std(ddof=1)
    top, _ = integrate.quad(
        lambda d: nct.pdf(t, n - 1, d * math.sqrt(n)) * normal.pdf(d, scale=effect),
        -12,
        12,
        points=[0.0, t / math.sqrt(n)],
    )
    return top / student.pdf(t, n - 1)


@pytest.mark.parametrize(("n", "effect"), [(5, 1.0), (4, 3.0), (12, 1.0), (30, 0.5)])
def test_ends_are_where_the_sequential_t_test_rejects(n, effect):
    values = np.random.default_rng(n).normal(0.3, 2.0, n)
    width = anytime.half_width(values.tolist(), effect=effect)
    for end in (values.mean() - width, values.mean() + width):
        assert bayes_factor(values, end, effect) == pytest.approx(1 / 0.05, rel=1e-4)


def looks(draws: np.ndarray, first: int, width) -> np.ndarray:
    """(paths, times) → for each path whether, at some look, the interval leaves out the true mean, 0."""
    n = np.arange(first, draws.shape[1] + 1)
    sums, squares = (np.cumsum(power, 1)[:, n - 1] for power in (draws, draws**2))
    deviation = np.sqrt(np.maximum(squares - sums**2 / n, 0) / (n - 1))
    return (np.abs(sums / n) > np.array([width(int(one)) for one in n]) * deviation).any(1)


def unit_width(n: int, **options: float) -> float:
    """The half width for n values of standard deviation 1."""
    values = [(-1.0) ** i for i in range(n)] if n % 2 == 0 else [*((-1.0) ** i for i in range(n - 1)), 0.0]
    return anytime.half_width(values, **options) / float(np.std(values, ddof=1))


@pytest.mark.parametrize(
    ("draw", "first", "effect"),
    [
        (lambda rng, shape: rng.normal(size=shape), 2, 3.0),
        (lambda rng, shape: rng.normal(size=shape), 2, 0.3),
        (lambda rng, shape: rng.integers(0, 6, size=shape) / 5 - 0.5, 10, 0.3),  # accuracies on five queries
    ],
    ids=["normal, seeds", "normal, tasks", "accuracies"],
)
def test_at_most_five_in_a_hundred_false_alarms_when_looking_after_every_value(draw, first, effect):
    draws = draw(np.random.default_rng(0), (4000, 200))
    alarms = looks(draws, first, lambda n: unit_width(n, effect=effect)).mean()
    assert alarms <= 0.05
    fixed = looks(draws, first, lambda n: 1.96 / math.sqrt(n)).mean()
    assert (
        fixed > 0.25
    )  # what looking does to an interval for one look: the simulation can tell the two apart


def test_many_comparisons_hold_together():
    draws = np.random.default_rng(1).normal(size=(1500, 4, 60))
    level = 1 - 0.05 / 4
    wrong = np.stack([looks(draws[:, k], 2, lambda n: unit_width(n, level=level)) for k in range(4)], 1)
    assert wrong.any(1).mean() <= 0.05


def test_a_difference_that_is_there_is_found():
    draws = np.random.default_rng(2).normal(loc=1.5, size=(300, 12))
    decided = [abs(np.mean(path)) > anytime.half_width(path.tolist()) for path in draws]
    assert np.mean(decided) > 0.8


def test_too_few_values_have_no_interval_and_arguments_are_looked_at():
    assert anytime.half_width([]) == anytime.half_width([1.0]) == anytime.half_width([1.0, 1.1]) == math.inf
    assert anytime.half_width([2.0] * 5) == 0
    with pytest.raises(ValueError, match="level"):
        anytime.half_width([1.0, 2.0], level=95)


@pytest.mark.parametrize(("level", "effect"), [(0.95, 3.0), (0.975, 3.0), (0.999, 3.0), (0.95, 0.3)])
def test_fewest_values_are_those_of_the_first_finite_interval(level, effect):
    fewest = anytime.fewest(level=level, effect=effect)
    values = np.random.default_rng(0).normal(size=fewest).tolist()
    assert math.isfinite(anytime.half_width(values, level=level, effect=effect))
    assert math.isinf(anytime.half_width(values[:-1], level=level, effect=effect))
