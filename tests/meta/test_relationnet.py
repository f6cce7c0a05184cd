"""Relation networks against relations written out in torch, pair by pair."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import meta
import neo
from meta import RelationNet, Step
from tests.meta.test_protonet import FEATURES, INPUTS, as_meta_batch, task

MODEL = neo.nn.MLP(INPUTS, 6, FEATURES)


def mlp(w: dict, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.relu(x @ w["linear0.weight"].T + w["linear0.bias"])
    return hidden @ w["linear1.weight"].T + w["linear1.bias"]


def relations(weights: dict, relation: dict, one) -> torch.Tensor:
    """(queries, classes), before the sigmoid."""
    support, labels, rows = mlp(weights, one.support.x), one.support.y.tolist(), []
    for query in mlp(weights, one.query.x):
        row = []
        for k in range(3):
            of_class = sum(f for f, label in zip(support, labels, strict=True) if label == k)
            row.append(mlp(relation, torch.cat([of_class, query]))[0])
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("loss", ["mse", "problem"])
def test_meta_gradient_and_logits_are_those_of_torch(loss):
    learner = RelationNet(MODEL, features=FEATURES, hidden=5, loss=loss)
    params = neo.pytree.tree_map(lambda leaf: neo.LiteTensor(leaf.data.double()), learner.init(seed=1))
    weights, relation = (
        {name: leaf.data.clone().requires_grad_() for name, leaf in params[part].items()}
        for part in ("params", "relation")
    )
    tasks, losses, entropies = [task(seed=1), task(seed=2)], [], []
    for one in tasks:
        logits = relations(weights, relation, one)
        found = learner.adapt(params, one.support, Step())(one.query.x).data
        torch.testing.assert_close(found, logits.detach(), rtol=1e-12, atol=1e-13)
        entropies.append(F.cross_entropy(logits, one.query.y))
        squares = [
            (torch.sigmoid(logits[i, k]) - float(k == one.query.y[i])) ** 2
            for i in range(len(logits))
            for k in range(3)
        ]
        losses.append(entropies[-1] if loss == "problem" else sum(squares) / len(squares))
    torch.stack(losses).mean().backward()
    found = meta.meta_gradient(learner, params, as_meta_batch(*tasks))
    torch.testing.assert_close(found.loss, torch.stack(entropies).detach())
    if loss == "mse":
        torch.testing.assert_close(found.metrics["relation_loss"], torch.stack(losses).detach())
    for part, theirs in (("params", weights), ("relation", relation)):
        for name, weight in theirs.items():
            torch.testing.assert_close(found.gradient[part][name].data, weight.grad, rtol=1e-10, atol=1e-13)


def test_network_that_compares_is_drawn_apart_from_the_model():
    params = RelationNet(neo.nn.MLP(INPUTS, 5, 1), features=1, hidden=5).init(seed=4)
    again = RelationNet(neo.nn.MLP(INPUTS, 5, 1), features=1, hidden=5).init(seed=4)
    assert params["relation"]["linear0.weight"].shape == (5, 2)
    first = params["params"]["linear0.weight"].data.flatten()[:10]
    second = params["relation"]["linear0.weight"].data.flatten()[:10]
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.9
    assert torch.equal(second, again["relation"]["linear0.weight"].data.flatten()[:10])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"features": 0}, "features must be an integer of 1 or more, got 0"),
        ({"hidden": 2.5}, "hidden must be an integer of 1 or more, got 2.5"),
        ({"loss": "hinge"}, "loss must be one of mse, problem; got 'hinge'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"RelationNet: {sentence}"):
        RelationNet(MODEL, **options)


def test_another_number_of_features_is_told():
    learner = RelationNet(MODEL, features=7)
    params = neo.pytree.tree_map(lambda leaf: neo.LiteTensor(leaf.data.double()), learner.init(seed=1))
    with pytest.raises(
        ValueError, match=r"gives 4 features .* algorithm.features is 7; set algorithm.features=4"
    ):
        learner.adapt(params, task().support, Step())
