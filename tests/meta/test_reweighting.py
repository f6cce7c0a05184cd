"""Weights of examples against the paper's algorithm, line by line in torch, with its step at ε = 0."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from meta import Reweighting, Step
from tasks import Batch, Task

MODEL = neo.nn.MLP(6, 5, 3)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TASK = Task(
    Batch(draw(12, 6), torch.arange(12) % 3),
    Batch(draw(7, 6, seed=1), torch.arange(7) % 3),
)
PARAMS = MODEL.init(seed=0, dtype=torch.float64)


def logits(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    hidden = torch.relu(F.linear(x, w["linear0.weight"], w["linear0.bias"]))
    return F.linear(hidden, w["linear1.weight"], w["linear1.bias"])


def by_the_paper(alpha: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Algorithm 1: the weights, and the gradient of the weighted loss."""
    w = {name: leaf.data.clone().requires_grad_() for name, leaf in PARAMS.items()}
    losses = F.cross_entropy(logits(w, TASK.support.x), TASK.support.y, reduction="none")
    epsilon = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad((epsilon * losses).sum(), list(w.values()), create_graph=True)
    ahead = {name: leaf - alpha * g for (name, leaf), g in zip(w.items(), gradients, strict=True)}
    (slope,) = torch.autograd.grad(F.cross_entropy(logits(ahead, TASK.query.x), TASK.query.y), epsilon)
    weights = (-slope).clamp(min=0)
    weights = weights / weights.sum()
    losses = F.cross_entropy(logits(w, TASK.support.x), TASK.support.y, reduction="none")
    return weights, dict(zip(w, torch.autograd.grad((weights * losses).sum(), list(w.values())), strict=True))


@pytest.mark.parametrize("alpha", [0.1, 3.0])
def test_gradient_is_that_of_the_papers_algorithm_whatever_its_rate(alpha):
    weights, expected = by_the_paper(alpha)
    assert 0 < int((weights > 0).sum()) < 12
    found = Reweighting(MODEL).task_gradient(PARAMS, TASK, Step())
    for name, gradient in expected.items():
        torch.testing.assert_close(found.gradient[name].data, gradient, rtol=1e-10, atol=1e-12)
    assert float(found.metrics["used"]) == pytest.approx(float((weights > 0).double().mean()))


def test_uniform_weights_are_plain_training():
    found = Reweighting(MODEL, weights="uniform").task_gradient(PARAMS, TASK, Step())
    plain = neo.grad(
        lambda params: F.cross_entropy(MODEL(params, TASK.support.x), TASK.support.y), argnums=0
    )(PARAMS)
    for name, gradient in plain.items():
        torch.testing.assert_close(found.gradient[name].data, gradient.data)
    assert float(found.metrics["used"]) == 1


def test_where_no_example_helps_the_step_is_none_and_finite():
    """Labels that are all wrong against queries of the same inputs: every step on them hurts."""
    wrong = Task(Batch(TASK.query.x[:1], TASK.query.y[:1] + 1), TASK.query[:1])
    found = Reweighting(neo.nn.MLP(6, 3)).task_gradient(
        neo.nn.MLP(6, 3).init(0, dtype=torch.float64), wrong, Step()
    )
    assert float(found.metrics["used"]) == 0
    assert all(bool((gradient.data == 0).all()) for gradient in found.gradient.values())


def test_weights_of_another_name_are_refused():
    with pytest.raises(ValueError, match="weights must be one of learned, uniform, got 'clean'"):
        Reweighting(MODEL, weights="clean")
