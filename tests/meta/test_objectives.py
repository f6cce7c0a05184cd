"""Losses, scores, and how a score is said and compared."""

from __future__ import annotations

import math

import pytest
import torch

from meta.problems import (
    ACCURACY,
    MSE,
    Classification,
    Metric,
    MultiLabel,
    PixelClassification,
    Regression,
    metric_of,
)
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


def test_sigmoid_loss_and_scores_of_several_labels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    y = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)
    chance = torch.sigmoid(logits)
    expected = -(y * chance.log() + (1 - y) * (1 - chance).log()).mean()
    torch.testing.assert_close(MultiLabel().loss(logits, y), expected)
    said = torch.tensor([[1, -1, -1], [-1, -1, -1], [1, 1, 1], [1, -1, 1], [1, -1, -1]], dtype=torch.float64)
    # |P ∩ Y|, |P|, |Y|: 1, 1, 2; nothing of nothing; all; 0 of 2; 0 of 1 that should be none
    torch.testing.assert_close(MultiLabel().score(said, y), torch.tensor([2 / 3, 1.0, 1.0, 0.0, 0.0]))
    right = torch.tensor([2 / 3, 1.0, 1.0, 0.0, 2 / 3])
    torch.testing.assert_close(MultiLabel("accuracy").score(said, y), right)
    assert (MultiLabel().metric.name, MultiLabel("accuracy").metric.name) == ("f1", "label_accuracy")
    with pytest.raises(
        ValueError, match=r"targets \(5, 3\), got \(5, 1\); give the model an output for each label"
    ):
        MultiLabel().loss(logits[:, :1], y)
    with pytest.raises(ValueError, match="score must be 'accuracy' or 'f1', got 'recall'"):
        MultiLabel("recall")


def test_pixels_are_scored_class_by_class_over_the_whole_set():
    y = torch.tensor([[[0, 1], [1, 1]], [[0, 0], [0, 0]]])
    taken = torch.tensor([[[0, 1], [0, 0]], [[0, 1], [0, 0]]])
    logits = torch.nn.functional.one_hot(taken, 4).permute(0, 3, 1, 2).double()
    problem = PixelClassification()
    loss, score = problem.loss(logits, y), problem.score(logits, y)
    # Class 0: 4 pixels of both, 6 + 5 − 4 of either; class 1: 1 of both, 2 + 3 − 1 of either; 2 and 3 are nowhere.
    assert float(score) == pytest.approx((4 / 7 + 1 / 4) / 2)
    flat = torch.nn.functional.cross_entropy(logits.permute(0, 2, 3, 1).reshape(-1, 4), y.flatten())
    torch.testing.assert_close(loss, flat)
    with pytest.raises(ValueError, match="the model must give as many pixels as it takes"):
        problem.loss(logits[..., :1], y)


def test_pixels_without_a_label_count_in_neither_loss_nor_score():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (3, 5, 6), generator=generator)
    hidden = torch.rand(3, 5, 6, generator=generator) < 0.3
    problem = PixelClassification()
    some = torch.where(hidden, -100, y)
    loss, score = problem.loss(logits, some), problem.score(logits, some)
    # The same of the other pixels alone, as one image of a row.
    rest, labels = logits.permute(1, 0, 2, 3)[:, ~hidden][None, :, None], y[~hidden][None, None]
    torch.testing.assert_close(loss, problem.loss(rest, labels))
    torch.testing.assert_close(score, problem.score(rest, labels))
    assert float(score) != float(problem.score(logits, y))


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
