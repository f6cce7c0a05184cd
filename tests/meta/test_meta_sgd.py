"""Meta-SGD: gradients for the initialisation and for every inner rate."""

from __future__ import annotations

import optree
import pytest
import torch

import neo
from meta import MAML, MetaSGD, meta_gradient
from neo import LiteTensor
from tests.meta.quadratic import BODY, SIZE, Tasks, flat
from tests.meta.test_maml import random_tasks


def test_meta_gradient_matches_closed_form_on_quadratics():
    """One step, θ′ = θ − a ∘ A (θ − c): the gradient is (I − A diag(a)) (θ′ − q) for θ, −A (θ − c) ∘ (θ′ − q) for a."""
    problem = Tasks()
    rates = torch.linspace(-0.05, 0.1, SIZE, dtype=torch.float64)
    params = {"params": problem.params(), "rates": split(rates)}
    result = meta_gradient(MetaSGD(problem.model, problem=problem.problem), params, problem.batch())
    for_theta, for_rates = torch.zeros(2, SIZE, dtype=torch.float64)
    for c, q in problem.tasks():
        descent = problem.A @ (problem.theta() - c)
        residual = problem.theta() - rates * descent - q
        for_theta += (residual - problem.A @ (rates * residual)) / 2
        for_rates += -descent * residual / 2
    torch.testing.assert_close(flat(result.gradient["params"]), for_theta, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flat(result.gradient["rates"]), for_rates, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
def test_meta_gradient_matches_torch_double_backward(first_order):
    """Three steps with the same rates, written out in torch."""
    problem, steps = Tasks(), 3
    rates = torch.linspace(-0.05, 0.1, SIZE, dtype=torch.float64)
    params = {"params": problem.params(), "rates": split(rates)}
    learner = MetaSGD(problem.model, inner_steps=steps, first_order=first_order, problem=problem.problem)
    got = meta_gradient(learner, params, problem.batch()).gradient

    theta, a = problem.theta().requires_grad_(), rates.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for c, q in problem.tasks():
        adapted = theta
        for _ in range(steps):
            at = adapted.detach().requires_grad_() if first_order else adapted
            loss = 0.5 * (at - c) @ problem.A @ (at - c)
            (descent,) = torch.autograd.grad(loss, at, create_graph=not first_order)
            adapted = adapted - a * descent
        total = total + 0.5 * ((adapted - q) ** 2).sum() / 2
    expected = torch.autograd.grad(total, (theta, a))
    torch.testing.assert_close(flat(got["params"]), expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flat(got["rates"]), expected[1], rtol=1e-12, atol=1e-12)


def test_equal_rates_are_maml():
    model = neo.nn.Conv4(ways=3, hidden=4)
    batch = random_tasks(3, 2, torch.float32)
    ours = MetaSGD(model, inner_lr=0.3, inner_steps=2)
    params = ours.init(seed=5)
    maml = meta_gradient(MAML(model, inner_lr=0.3, inner_steps=2), params["params"], batch)
    result = meta_gradient(ours, params, batch)
    torch.testing.assert_close(result.loss, maml.loss)
    for name, gradient in maml.gradient.items():
        torch.testing.assert_close(result.gradient["params"][name].data, gradient.data, atol=1e-5, rtol=1e-4)


def test_rates_begin_at_inner_lr_one_for_each_parameter():
    model = neo.nn.Conv4(ways=3, hidden=4)
    params = MetaSGD(model, inner_lr=0.25).init(seed=0)
    assert optree.tree_structure(params["rates"]) == optree.tree_structure(params["params"])
    for name, rate in params["rates"].items():
        assert rate.shape == params["params"][name].shape
        assert bool((rate.data == 0.25).all())


def test_an_inner_optimizer_is_refused():
    with pytest.raises(ValueError, match="leave inner_optimizer out"):
        MetaSGD(neo.nn.Conv4(ways=3), inner_optimizer=neo.optim.adam(0.1))


def split(theta: torch.Tensor) -> dict[str, LiteTensor]:
    return {"body.theta": LiteTensor(theta[:BODY]), "head.theta": LiteTensor(theta[BODY:])}
