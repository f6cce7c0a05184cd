"""Matching networks against attention written out in torch, example by example."""

from __future__ import annotations

import math

import pytest
import torch

import meta
import neo
from meta import MatchingNet, ProtoNet, Step
from tests.meta.test_protonet import FEATURES, INPUTS, as_meta_batch, task

MODEL = neo.nn.MLP(INPUTS, 6, FEATURES)


def probabilities(weights: dict, one, scale: torch.Tensor) -> torch.Tensor:
    """(queries, classes): Σ of the attention paid to the examples of each class."""

    def features(x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(x @ weights["linear0.weight"].T + weights["linear0.bias"])
        return hidden @ weights["linear1.weight"].T + weights["linear1.bias"]

    support, labels, rows = features(one.support.x), one.support.y.tolist(), []
    for query in features(one.query.x):
        weight = torch.stack([torch.exp(scale * (query @ s) / (query.norm() * s.norm())) for s in support])
        attention = weight / weight.sum()
        rows.append(
            torch.stack([sum(a for a, y in zip(attention, labels, strict=True) if y == k) for k in range(3)])
        )
    return torch.stack(rows)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_meta_gradient_and_probabilities_are_those_of_torch(scale, learned):
    learner = MatchingNet(MODEL, scale=scale, learned_scale=learned)
    params = MODEL.init(seed=1, dtype=torch.float64)
    tau = torch.tensor(scale, dtype=torch.float64)
    ours = {"params": params, "scale": neo.LiteTensor(tau)} if learned else params
    weights = {name: leaf.data.clone().requires_grad_() for name, leaf in params.items()}
    tau = tau.clone().requires_grad_()
    tasks, losses = [task(seed=1), task(seed=2)], []
    for one in tasks:
        expected = probabilities(weights, one, tau)
        found = learner.adapt(ours, one.support, Step())(one.query.x).data
        torch.testing.assert_close(found.exp(), expected.detach(), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(found.softmax(1), expected.detach(), rtol=1e-12, atol=1e-13)
        losses.append(-expected[torch.arange(len(one.query.y)), one.query.y].log().mean())
    torch.stack(losses).mean().backward()
    found = meta.meta_gradient(learner, ours, as_meta_batch(*tasks))
    torch.testing.assert_close(found.loss, torch.stack(losses).detach())
    of_model = found.gradient["params"] if learned else found.gradient
    for name, weight in weights.items():
        torch.testing.assert_close(of_model[name].data, weight.grad, rtol=1e-10, atol=1e-13)
    if learned:
        torch.testing.assert_close(found.gradient["scale"].data, tau.grad, rtol=1e-10, atol=1e-13)
        assert found.metrics["scale"].tolist() == [scale, scale]


def test_with_one_example_of_each_class_it_is_prototypes_by_cosine():
    params, one = MODEL.init(seed=1, dtype=torch.float64), task(labels=[1, 0, 2])
    matching, prototypes = (
        learner.adapt(params, one.support, Step())(one.query.x).data.softmax(1)
        for learner in (MatchingNet(MODEL, scale=3.0), ProtoNet(MODEL, distance="cosine", scale=3.0))
    )
    torch.testing.assert_close(matching, prototypes, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_scale_that_means_nothing_is_refused(scale):
    with pytest.raises(ValueError, match="MatchingNet: scale must be a finite number greater than 0"):
        MatchingNet(MODEL, scale=scale)


def test_what_it_cannot_do_is_refused_by_its_name():
    params = MODEL.init(seed=0)
    with pytest.raises(ValueError, match=r"MatchingNet: .* takes no inner steps; got inner_steps=2"):
        MatchingNet(MODEL).adapt(params, task().support, Step(inner_steps=2))
    with pytest.raises(ValueError, match="MatchingNet: class 1 has no support example"):
        MatchingNet(MODEL).adapt(params, task(labels=[0, 2, 2]).support, Step())
