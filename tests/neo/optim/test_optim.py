"""Optimisers step for step against torch.optim, and differentiated against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import neo
from neo.optim import Optimizer, adam, adamw, momentum, sgd

PAIRS: dict[str, tuple[Optimizer, Callable]] = {
    "sgd": (sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd decay": (sgd(0.1, weight_decay=0.03), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.03)),
    "momentum": (momentum(0.05, 0.8), lambda p: torch.optim.SGD(p, 0.05, momentum=0.8)),
    "nesterov": (momentum(0.05, 0.8, True), lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, nesterov=True)),
    "adam": (adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adam decay": (adam(0.01, weight_decay=0.02), lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.02)),
    "adamw": (adamw(0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
}


def rough_loss(a, b):
    """A bumpy function of a matrix and a vector."""
    return torch.sum(torch.tanh(a @ b) ** 2) + torch.sum(torch.cos(a)) * 0.1 + torch.sum(b**4)


@pytest.mark.parametrize("name", PAIRS)
def test_optimizer_equals_torch_optim_over_50_steps(name: str) -> None:
    optimizer, make = PAIRS[name]
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(3, 4, generator=generator).double(), torch.randn(4, generator=generator).double()
    params = {"a": neo.LiteTensor(a.clone()), "b": neo.LiteTensor(b.clone())}
    state = optimizer.init(params)
    ta, tb = a.clone().requires_grad_(), b.clone().requires_grad_()
    reference = make([ta, tb])
    gradient = neo.grad(lambda p: rough_loss(p["a"], p["b"]), argnums=0)
    for _ in range(50):
        params, state = optimizer.step(params, gradient(params), state)
        reference.zero_grad()
        rough_loss(ta, tb).backward()
        reference.step()
    torch.testing.assert_close(params["a"].data, ta.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(params["b"].data, tb.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [sgd, momentum, adam, adamw], ids=lambda make: make.__name__)
def test_inner_loop_is_differentiable_through_params_state_and_rate(make: Callable[..., Optimizer]) -> None:
    def after_three_steps(theta, lr):
        optimizer = make(lr)
        state = optimizer.init(theta)
        for _ in range(3):
            grads = neo.grad(lambda t: torch.sum(torch.sin(t) * t), argnums=0)(theta)
            theta, state = optimizer.step(theta, grads, state)
        return theta * theta

    theta = neo.LiteTensor([0.3, -1.2, 0.7], dtype=torch.float64)
    assert neo.gradcheck(after_three_steps, (theta, neo.LiteTensor(0.05, dtype=torch.float64)), order=2)


def test_rates_may_mirror_the_parameters() -> None:
    params = {"a": neo.LiteTensor([1.0, 2.0]), "b": neo.LiteTensor(3.0)}
    grads = {"a": neo.LiteTensor([1.0, 1.0]), "b": neo.LiteTensor(1.0)}
    rates = {"a": neo.LiteTensor([0.1, 0.2]), "b": 0.5}
    new, _ = sgd(rates).step(params, grads, None)
    assert new["a"].tolist() == pytest.approx([0.9, 1.8])
    assert new["b"].item() == pytest.approx(2.5)
    with pytest.raises(ValueError, match="mirrors the parameters"):
        sgd({"a": 0.1}).step(params, grads, None)


def test_adam_differentiates_where_a_gradient_is_exactly_zero() -> None:
    def step(theta, scale):
        optimizer = adam(0.1)
        new, _ = optimizer.step(theta, theta * scale, optimizer.init(theta))
        return torch.sum(new)

    theta, scale = (
        neo.LiteTensor([1.0, 2.0], dtype=torch.float64),
        neo.LiteTensor([0.0, 1.0], dtype=torch.float64),
    )
    gradients = neo.grad(step)(theta, scale)
    assert all(torch.isfinite(gradient.data).all() for gradient in gradients.values())


def test_step_leaves_its_inputs_alone() -> None:
    params = {"a": neo.LiteTensor([1.0, 2.0])}
    optimizer = adam(0.1)
    state = optimizer.init(params)
    optimizer.step(params, {"a": neo.LiteTensor([1.0, 1.0])}, state)
    assert params["a"].tolist() == [1.0, 2.0]
    assert state.steps == 0
    assert state.mean["a"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("make", [sgd, momentum, adam, adamw], ids=lambda make: make.__name__)
def test_rate_must_be_positive(make: Callable[..., Optimizer]) -> None:
    with pytest.raises(ValueError, match="greater than 0, got -1"):
        make(-1)
