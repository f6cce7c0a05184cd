"""Losses, scores, and how a score is said and compared."""

from __future__ import annotations

import math

import pytest
import torch

from meta.problems import ACCURACY, MSE, Classification, Metric, Regression, metric_of
from tasks import Batch


def test_regression_loss_is_the_mean_of_the_scores():
    generator = torch.Generator().manual_seed(0)
    prediction, y = torch.randn(2, 6, 3, generator=generator)
    problem = Regression()
    scores = problem.score(prediction, y)
    assert scores.shape == (6,)
    torch.testing.assert_close(scores, ((prediction - y) ** 2).sum(1) / 3)
    examples = Batch(torch.zeros(6, 1), y)
    loss, score = problem.query_loss(lambda x: prediction, examples)
    torch.testing.assert_close(loss, scores.mean())
    torch.testing.assert_close(score, scores.mean())
    torch.testing.assert_close(problem.support_loss(lambda x: prediction, examples), scores.mean())


def test_regression_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"targets \(6, 1\), got \(6, 5\); give the model"):
        Regression().loss(torch.zeros(6, 5), torch.zeros(6, 1))


def test_more_accuracy_and_less_error_are_better_and_nan_never_is():
    assert ACCURACY.better(0.9, 0.8)
    assert not ACCURACY.better(0.8, 0.8)
    assert MSE.better(0.8, 0.9)
    for metric in (ACCURACY, MSE):
        assert metric.better(0.5, metric.worst)
        assert not metric.better(math.nan, metric.worst)


@pytest.mark.parametrize(
    ("metric", "digits", "said"),
    [
        (ACCURACY, 2, "92.11% ± 0.51"),
        (ACCURACY, 0, "92% ± 1"),
        (MSE, 2, "0.921 ± 0.005"),
        (MSE, 1, "0.92 ± 0.01"),
    ],
)
def test_metric_is_said_as_people_read_it(metric, digits, said):
    assert metric.format(0.92111, 0.00512, digits) == said


def test_metrics_are_found_by_the_names_that_results_have():
    assert metric_of({"metric": "accuracy"}) is Classification.metric
    assert metric_of({"metric": "mse"}) is Regression.metric
    mae = metric_of({"metric": "mae", "higher_is_better": False})
    assert mae == Metric("mae", "mae", higher_is_better=False)


@pytest.mark.parametrize("make", [lambda: Metric("mae", "error"), lambda: metric_of({"metric": "mae"})])
def test_metric_of_unknown_direction_is_asked_for(make):
    """A search would maximise the error."""
    with pytest.raises(ValueError, match="is more 'mae' better or worse"):
        make()
