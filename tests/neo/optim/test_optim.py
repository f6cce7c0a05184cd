"""Optimisers step for step against torch.optim, and differentiated against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import optree
import pytest
import torch

import neo
from neo.optim import (
    Optimizer,
    adadelta,
    adagrad,
    adam,
    adamax,
    adamw,
    asgd,
    momentum,
    nadam,
    nesterov,
    radam,
    rmsprop,
    rprop,
    sgd,
)

PAIRS: dict[str, tuple[Optimizer, Callable]] = {
    "sgd": (sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd decay": (sgd(0.1, weight_decay=0.03), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.03)),
    "momentum": (momentum(0.05, 0.8), lambda p: torch.optim.SGD(p, 0.05, momentum=0.8)),
    "nesterov": (momentum(0.05, 0.8, True), lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, nesterov=True)),
    "adam": (adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adam decay": (adam(0.01, weight_decay=0.02), lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.02)),
    "adamw": (adamw(0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
    "nesterov by name": (
        nesterov(0.05, 0.8, weight_decay=0.02),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, nesterov=True, weight_decay=0.02),
    ),
    "sgd up": (sgd(1e-3, 0.1, True), lambda p: torch.optim.SGD(p, 1e-3, weight_decay=0.1, maximize=True)),
    "momentum up": (
        momentum(1e-4, maximize=True),
        lambda p: torch.optim.SGD(p, 1e-4, momentum=0.9, maximize=True),
    ),
    "adam up": (adam(0.01, maximize=True), lambda p: torch.optim.Adam(p, 0.01, maximize=True)),
    "adamw up": (adamw(0.01, maximize=True), lambda p: torch.optim.AdamW(p, 0.01, maximize=True)),
    "adam betas": (
        adam(0.01, (0.5, 0.8), eps=1e-3),
        lambda p: torch.optim.Adam(p, 0.01, (0.5, 0.8), eps=1e-3),
    ),
    "rmsprop": (rmsprop(0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
    "rmsprop, all": (
        rmsprop(0.01, 0.8, 1e-6, 0.02, 0.7, True, True),
        lambda p: torch.optim.RMSprop(
            p, 0.01, 0.8, 1e-6, weight_decay=0.02, momentum=0.7, centered=True, maximize=True
        ),
    ),
    "adagrad": (adagrad(0.1), lambda p: torch.optim.Adagrad(p, 0.1)),
    "adam amsgrad": (
        adam(0.1, amsgrad=True, weight_decay=0.02),
        lambda p: torch.optim.Adam(p, 0.1, amsgrad=True, weight_decay=0.02),
    ),
    "adamw amsgrad": (adamw(0.1, amsgrad=True), lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True)),
    "dampening": (
        momentum(0.05, 0.8, weight_decay=0.02, dampening=0.3),
        lambda p: torch.optim.SGD(p, 0.05, 0.8, dampening=0.3, weight_decay=0.02),
    ),
    "sgd as torch spells it": (
        sgd(0.05, momentum=0.8, dampening=0.3),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, dampening=0.3),
    ),
    "sgd with nesterov": (
        sgd(0.05, 0.01, momentum=0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, nesterov=True, weight_decay=0.01),
    ),
    "adadelta": (adadelta(), lambda p: torch.optim.Adadelta(p)),
    "adadelta, all": (
        adadelta(0.5, 0.8, 1e-4, 0.02, True),
        lambda p: torch.optim.Adadelta(p, 0.5, 0.8, 1e-4, 0.02, maximize=True),
    ),
    "adamax": (adamax(), lambda p: torch.optim.Adamax(p)),
    "adamax, all": (
        adamax(0.01, (0.7, 0.8), 1e-4, 0.02, True),
        lambda p: torch.optim.Adamax(p, 0.01, (0.7, 0.8), 1e-4, 0.02, maximize=True),
    ),
    "nadam": (nadam(), lambda p: torch.optim.NAdam(p)),
    "nadam, all": (
        nadam(0.01, (0.7, 0.8), 1e-4, 0.02, 0.1, True, True),
        lambda p: torch.optim.NAdam(p, 0.01, (0.7, 0.8), 1e-4, 0.02, 0.1, True, maximize=True),
    ),
    "nadam decay": (nadam(0.01, weight_decay=0.1), lambda p: torch.optim.NAdam(p, 0.01, weight_decay=0.1)),
    "radam": (radam(0.01), lambda p: torch.optim.RAdam(p, 0.01)),
    "radam, all": (
        radam(0.01, (0.7, 0.8), 1e-4, 0.02, True, True),
        lambda p: torch.optim.RAdam(p, 0.01, (0.7, 0.8), 1e-4, 0.02, True, maximize=True),
    ),
    "radam decay": (radam(0.01, weight_decay=0.1), lambda p: torch.optim.RAdam(p, 0.01, weight_decay=0.1)),
    "rprop": (rprop(), lambda p: torch.optim.Rprop(p)),
    "rprop, all": (
        rprop(0.02, (0.4, 1.5), (1e-3, 0.05), True),
        lambda p: torch.optim.Rprop(p, 0.02, (0.4, 1.5), (1e-3, 0.05), maximize=True),
    ),
    "asgd": (asgd(), lambda p: torch.optim.ASGD(p)),
    "asgd, all": (
        asgd(1e-3, 0.1, 0.6, 10, 0.02, True),
        lambda p: torch.optim.ASGD(p, 1e-3, 0.1, 0.6, 10, 0.02, maximize=True),
    ),
    "rate of zero": (sgd(0.0, 0.1), lambda p: torch.optim.SGD(p, 0.0, weight_decay=0.1)),
    "adam at rate zero": (adam(0), lambda p: torch.optim.Adam(p, 0.0)),
    "adagrad, all": (
        adagrad(0.1, 0.05, 0.02, 0.3, 1e-6, True),
        lambda p: torch.optim.Adagrad(p, 0.1, 0.05, 0.02, 0.3, 1e-6, maximize=True),
    ),
}


def rough_loss(a, b):
    """A bumpy function of a matrix and a vector."""
    return torch.sum(torch.tanh(a @ b) ** 2) + torch.sum(torch.cos(a)) * 0.1 + torch.sum(b**4)


@pytest.fixture
def float64():
    """torch.optim keeps some numbers (NAdam's product, ASGD's rate) in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
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


def dampened(lr, weight_decay=0.0):
    return momentum(lr, 0.8, weight_decay=weight_decay, dampening=0.3)


def amsgrad(lr, weight_decay=0.0):
    return adam(lr, weight_decay=weight_decay, amsgrad=True)


DECAYING = [sgd, momentum, dampened, adam, adamw, amsgrad, rmsprop, adagrad]
DECAYING += [adadelta, adamax, nadam, radam, asgd]
ALL = [*DECAYING, nesterov, rprop]
# Each hyperparameter that may be a LiteTensor, as a function of (rate, number) -> optimiser.
LEARNED: dict[str, Callable[[float, object], Optimizer]] = {
    "sgd decay": lambda lr, h: sgd(lr, weight_decay=h),
    "momentum": lambda lr, h: momentum(lr, h, weight_decay=h),
    "nesterov": lambda lr, h: nesterov(lr, h),
    "adam betas": lambda lr, h: adam(lr, (h, h), eps=1e-2),
    "adam eps": lambda lr, h: adam(lr, eps=h, weight_decay=h),
    "adamw decay": lambda lr, h: adamw(lr, weight_decay=h, eps=1e-2),
    "rmsprop": lambda lr, h: rmsprop(lr, h, 1e-2, h, h),
    "rmsprop centered": lambda lr, h: rmsprop(lr, h, h, centered=True),
    "adagrad": lambda lr, h: adagrad(lr, h, h, eps=h),
    "dampening": lambda lr, h: momentum(lr, 0.8, dampening=h),
    "amsgrad": lambda lr, h: adam(lr, (h, h), eps=h, amsgrad=True),
    "adadelta": lambda lr, h: adadelta(lr, h, h, h),
    "adamax": lambda lr, h: adamax(lr, (h, h), h, h),
    "nadam": lambda lr, h: nadam(lr, (h, h), h, h, h),
    "nadam decoupled": lambda lr, h: nadam(lr, weight_decay=h, decoupled_weight_decay=True, eps=0.1),
    "radam": lambda lr, h: radam(lr, (h, 0.9), h, h),
    "rprop": lambda lr, h: rprop(h * 0.4, (0.5, h + 1)),
    "asgd": lambda lr, h: asgd(lr, h, h, weight_decay=h),
}


def after_steps(optimizer: Optimizer, theta, steps: int = 3):
    state = optimizer.init(theta)
    for _ in range(steps):
        grads = neo.grad(lambda t: torch.sum(torch.sin(t) * t), argnums=0)(theta)
        theta, state = optimizer.step(theta, grads, state)
    return theta * theta


@pytest.mark.parametrize("name", LEARNED)
def test_hyperparameters_given_as_tensors_get_gradients(name: str) -> None:
    make = LEARNED[name]
    theta, h = (neo.LiteTensor(value, dtype=torch.float64) for value in ([0.3, -1.2, 0.7], 0.3))
    assert neo.gradcheck(lambda h, theta: after_steps(make(0.05, h), theta), (h, theta), order=2)
    gradient = neo.grad(lambda h: torch.sum(after_steps(make(0.05, h), theta)), argnums=0)(h)
    assert abs(gradient.item()) > 1e-6


def test_radam_is_differentiable_past_its_first_steps() -> None:
    """ρₜ > 5 from the sixth step on, where the second moment comes in."""
    theta, beta = (neo.LiteTensor(value, dtype=torch.float64) for value in ([0.3, -1.2], 0.9))
    after = lambda beta, theta: torch.sum(after_steps(radam(0.05, (0.8, beta), 0.1), theta, 8))  # noqa: E731
    assert neo.gradcheck(after, (beta, theta), order=2)
    assert neo.grad(after, argnums=0)(beta, theta).item() != 0


def test_average_of_asgd_is_torchs() -> None:
    params, theirs = (
        {"a": neo.LiteTensor([1.0, -2.0], dtype=torch.float64)},
        torch.tensor([1.0, -2.0]).double(),
    )
    theirs.requires_grad_()
    optimizer, reference = asgd(0.1, t0=2), torch.optim.ASGD([theirs], 0.1, t0=2)
    state = optimizer.init(params)
    for _ in range(7):
        gradient = neo.grad(lambda p: torch.sum(torch.cos(p["a"])), argnums=0)(params)
        params, state = optimizer.step(params, gradient, state)
        reference.zero_grad()
        torch.cos(theirs).sum().backward()
        reference.step()
    torch.testing.assert_close(state.average["a"].data, reference.state[theirs]["ax"], rtol=1e-6, atol=1e-7)


def test_decay_of_zero_given_as_a_tensor_has_a_gradient() -> None:
    theta, zero = (neo.LiteTensor(value, dtype=torch.float64) for value in ([0.3, -1.2], 0.0))
    for make in DECAYING:
        fn = lambda h, make=make: torch.sum(after_steps(make(0.05, weight_decay=h), theta))  # noqa: E731
        assert neo.gradcheck(fn, (zero,), order=1)
        assert neo.grad(fn, argnums=0)(zero).item() != 0


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
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


SQUARED = {  # those that divide by a root of squared gradients, and c in √v = c |g| after one step
    "adam": (lambda eps: adam(0.1, eps=eps), 1.0),
    "adamw": (lambda eps: adamw(0.1, eps=eps, weight_decay=0.0), 1.0),
    "rmsprop": (lambda eps: rmsprop(0.1, 0.75, eps), 0.5),
    "rmsprop centered": (lambda eps: rmsprop(0.1, 0.75, eps, centered=True), (0.75 * 0.25) ** 0.5),
    "adagrad": (lambda eps: adagrad(0.1, eps=eps), 1.0),
}


@pytest.mark.parametrize("name", SQUARED)
def test_step_at_a_gradient_of_exactly_zero_has_its_exact_derivative(name: str) -> None:
    """θ′ = θ − α g / (c |g| + ε) has the slope −α/ε at g = 0, and a second derivative that jumps there, ∓2cα/ε²."""
    make, c = SQUARED[name]
    eps = 0.01

    def stepped(g):
        theta = g.detach() * 0
        return make(eps).step(theta, g, make(eps).init(theta))[0]

    first = neo.grad(stepped, argnums=0)
    second = neo.grad(lambda g: torch.sum(first(g)), argnums=0)
    third = neo.grad(lambda g: torch.sum(second(g)), argnums=0)
    g = neo.LiteTensor([0.0, 0.3, -0.3], dtype=torch.float64)
    closed = -0.1 * eps / (c * g.data.abs() + eps) ** 2
    torch.testing.assert_close(first(g).data, closed, rtol=1e-9, atol=0)
    assert second(g).data[0] == 0  # the value between the two limits
    torch.testing.assert_close(
        second(g).data[1:], 0.2 * c * eps * g.data[1:].sign() / (c * g.data[1:].abs() + eps) ** 3
    )
    assert torch.isfinite(third(g).data).all()


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
@pytest.mark.parametrize("order", [1, 2])
def test_no_nan_in_an_inner_loop_whose_gradients_are_zero(make: Callable[..., Optimizer], order: int) -> None:
    """A parameter that the loss does not use, and one that stands at the minimum, over three steps."""

    def meta_loss(theta, lr):
        optimizer = make(lr)
        state = optimizer.init(theta)
        for _ in range(3):
            grads = neo.grad(lambda t: torch.sum(t["used"] ** 2) + torch.sum(t["unused"] * 0), argnums=0)(
                theta
            )
            theta, state = optimizer.step(theta, grads, state)
        return torch.sum(theta["used"] + theta["unused"] * 2)

    theta = {
        "used": neo.LiteTensor([0.0, 0.5], dtype=torch.float64),
        "unused": neo.LiteTensor([1.0], dtype=torch.float64),
    }
    lr = neo.LiteTensor(0.1, dtype=torch.float64)
    fn = neo.grad(meta_loss, argnums=(0, 1))
    if order == 2:
        first = fn
        fn = neo.grad(
            lambda theta, lr: sum(torch.sum(leaf) for leaf in optree.tree_leaves(first(theta, lr))),
            argnums=(0, 1),
        )
    assert all(torch.isfinite(leaf.data).all() for leaf in optree.tree_leaves(fn(theta, lr)))


def test_step_leaves_its_inputs_alone() -> None:
    params = {"a": neo.LiteTensor([1.0, 2.0])}
    optimizer = adam(0.1)
    state = optimizer.init(params)
    optimizer.step(params, {"a": neo.LiteTensor([1.0, 1.0])}, state)
    assert params["a"].tolist() == [1.0, 2.0]
    assert state.steps == 0
    assert state.mean["a"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_rate_must_not_be_negative(make: Callable[..., Optimizer]) -> None:
    with pytest.raises(ValueError, match="0 or greater, got -1"):
        make(-1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: momentum(0.1, 1.0), r"momentum: expected a momentum in \[0, 1\), got 1.0"),
        (lambda: adam(0.1, (0.9, 1.0)), r"adam: expected both betas in \[0, 1\), got 1.0"),
        (lambda: adamw(0.1, eps=-1.0), r"adamw: expected eps ≥ 0, got -1.0"),
        (lambda: rmsprop(0.1, alpha=1.5), r"rmsprop: expected alpha in \[0, 1\), got 1.5"),
        (lambda: adagrad(0.1, lr_decay=-1), r"adagrad: expected lr_decay ≥ 0, got -1"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
