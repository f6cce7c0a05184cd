"""R2-D2 against least squares by other means, and its gradients against torch's."""

from __future__ import annotations

import math

import pytest
import torch

import meta
import neo
from meta import R2D2, Step
from tests.meta.test_protonet import FEATURES, INPUTS, LABELS, as_meta_batch, task

MODEL = neo.nn.MLP(INPUTS, 6, FEATURES)
ALPHA, STRENGTH = 3.0, 0.4


def double(learner: R2D2) -> dict:
    return neo.pytree.tree_map(lambda leaf: neo.LiteTensor(leaf.data.double()), learner.init(seed=1))


def features(weights: dict, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.relu(x @ weights["linear0.weight"].T + weights["linear0.bias"])
    return hidden @ weights["linear1.weight"].T + weights["linear1.bias"]


# Fewer examples than features, and more.
@pytest.mark.parametrize("labels", [[1, 0, 2], LABELS], ids=["by examples", "by features"])
def test_logits_are_those_of_least_squares(labels):
    """With √λ I under the features and zeros under the classes, ridge regression is plain least squares."""
    learner, one = R2D2(MODEL, regularization=STRENGTH, scale=ALPHA), task(labels=labels)
    params = double(learner)
    weights = {name: leaf.data for name, leaf in params["params"].items()}
    strength = params["log_regularization"].data.exp()
    classes = torch.nn.functional.one_hot(one.support.y).double()
    design = torch.cat([features(weights, one.support.x), strength.sqrt() * torch.eye(FEATURES).double()])
    targets = torch.cat([classes, torch.zeros(FEATURES, 3, dtype=torch.float64)])
    solution = torch.linalg.lstsq(design, targets).solution
    expected = ALPHA * features(weights, one.query.x) @ solution
    found = learner.adapt(params, one.support, Step())(one.query.x).data
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("labels", [[1, 0, 2], LABELS], ids=["by examples", "by features"])
def test_meta_gradient_is_that_of_torch(labels):
    """In torch by the inverse of the system of features, whichever of the two is smaller."""
    learner = R2D2(MODEL, regularization=STRENGTH, scale=ALPHA)
    params, tasks = double(learner), [task(labels=labels, seed=1), task(labels=labels, seed=2)]
    weights = {name: leaf.data.clone().requires_grad_() for name, leaf in params["params"].items()}
    alpha = params["scale"].data.clone().requires_grad_()
    log_strength = params["log_regularization"].data.clone().requires_grad_()
    losses = []
    for one in tasks:
        z, classes = features(weights, one.support.x), torch.nn.functional.one_hot(one.support.y).double()
        system = z.T @ z + log_strength.exp() * torch.eye(FEATURES, dtype=torch.float64)
        logits = alpha * features(weights, one.query.x) @ torch.linalg.inv(system) @ z.T @ classes
        losses.append(torch.nn.functional.cross_entropy(logits, one.query.y))
    torch.stack(losses).mean().backward()
    found = meta.meta_gradient(learner, params, as_meta_batch(*tasks))
    torch.testing.assert_close(found.loss, torch.stack(losses).detach(), rtol=1e-10, atol=0)
    for name, weight in weights.items():
        torch.testing.assert_close(found.gradient["params"][name].data, weight.grad, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.gradient["scale"].data, alpha.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        found.gradient["log_regularization"].data, log_strength.grad, rtol=1e-9, atol=1e-12
    )
    assert found.metrics["log_regularization"].tolist() == pytest.approx([math.log(STRENGTH)] * 2, rel=1e-6)


def test_number_of_examples_may_be_anything():
    """As many classes and examples as a task has, on each side of the number of features."""
    learner = R2D2(MODEL)
    params = double(learner)
    for count in (3, FEATURES, FEATURES + 1, 20):
        one = task(labels=[k % 3 for k in range(count)])
        assert learner.adapt(params, one.support, Step())(one.query.x).shape == (7, 3)


@pytest.mark.parametrize("regularization", [0.0, -1.0, math.inf, math.nan])
def test_regularization_that_means_nothing_is_refused(regularization):
    with pytest.raises(ValueError, match="R2D2: regularization must be a finite number greater than 0"):
        R2D2(MODEL, regularization=regularization)


def test_what_it_cannot_do_is_refused_by_its_name():
    with pytest.raises(ValueError, match="R2D2: scale must be a finite number, got nan"):
        R2D2(MODEL, scale=math.nan)
    with pytest.raises(ValueError, match=r"R2D2: .* takes no inner steps; got inner_steps=2"):
        R2D2(MODEL).adapt(R2D2(MODEL).init(seed=0), task().support, Step(inner_steps=2))
