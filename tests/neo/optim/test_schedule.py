"""Schedules against torch.optim.lr_scheduler, step for step, and as rates that are learned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.optim import lr_scheduler

import neo
from neo.optim import (
    adam,
    constant,
    cosine,
    exponential_decay,
    momentum,
    sgd,
    step_decay,
    warmup,
    warmup_cosine,
)

PAIRS: dict[str, tuple[Callable[[int], float], Callable, int]] = {
    "constant": (constant(0.3), lambda o: lr_scheduler.ConstantLR(o, 1.0), 50),
    "cosine": (cosine(0.3, 50), lambda o: lr_scheduler.CosineAnnealingLR(o, 50), 50),
    "cosine to a tenth": (cosine(0.3, 50, 0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 50, 0.03), 50),
    "exponential": (exponential_decay(0.3, 0.95), lambda o: lr_scheduler.ExponentialLR(o, 0.95), 50),
    "steps": (step_decay(0.3, 0.5, 7), lambda o: lr_scheduler.StepLR(o, 7, 0.5), 50),
    "warm-up, then cosine": (
        warmup(10, cosine(0.3, 40), start=0.2),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 0.2, total_iters=10), lr_scheduler.CosineAnnealingLR(o, 40)],
            milestones=[10],
        ),
        50,
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch's own, of SequentialLR
@pytest.mark.parametrize("name", PAIRS)
def test_schedule_equals_torchs_over_50_steps(name: str) -> None:
    schedule, make, steps = PAIRS[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3)
    scheduler = make(optimizer)
    for step in range(steps):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        optimizer.step()
        scheduler.step()


def test_warmup_cosine_is_both_in_so_many_steps_in_all() -> None:
    both, then = warmup_cosine(0.3, 50, 10, 0.2, 0.1), warmup(10, cosine(0.3, 40, 0.1), 0.2)
    assert [both(step) for step in range(60)] == [then(step) for step in range(60)]
    assert both(50) == pytest.approx(0.03)
    with pytest.raises(ValueError, match="expected warmup_steps below the 10 steps in all, got 10"):
        warmup_cosine(0.3, 10, 10)


def test_schedules_go_on_after_their_last_step() -> None:
    assert cosine(0.3, 10, 0.1)(10) == cosine(0.3, 10, 0.1)(99) == pytest.approx(0.03)
    assert warmup(4, 0.2)(0) == 0.0
    assert warmup(4, 0.2)(3) == pytest.approx(0.15)
    assert warmup(4, 0.2)(4) == warmup(4, 0.2)(99) == 0.2


@pytest.mark.parametrize("make", [sgd, momentum, adam], ids=lambda make: make.__name__)
def test_optimizer_takes_each_step_at_the_schedules_rate(make: Callable) -> None:
    schedule = warmup(2, step_decay(0.1, 0.5, 2), start=0.5)
    params = {"w": neo.LiteTensor([1.0, -2.0], dtype=torch.float64)}
    grads = {"w": neo.LiteTensor([0.3, 0.1], dtype=torch.float64)}
    scheduled = make(schedule)
    got, state = params, scheduled.init(params)
    expected, plain_state = params, make(0.1).init(params)
    for step in range(7):
        got, state = scheduled.step(got, grads, state)
        expected, plain_state = make(schedule(step)).step(expected, grads, plain_state)
        assert torch.equal(got["w"].data, expected["w"].data)
    assert state.steps == 7


def test_scheduled_rate_is_learned_through() -> None:
    def after(rate, theta):
        optimizer = sgd(warmup(2, exponential_decay(rate, 0.5), start=0.5))
        state = optimizer.init(theta)
        for _ in range(4):
            gradient = neo.grad(lambda t: torch.sum(torch.sin(t) * t), argnums=0)(theta)
            theta, state = optimizer.step(theta, gradient, state)
        return torch.sum(theta * theta)

    theta = neo.LiteTensor([0.3, -1.2], dtype=torch.float64)
    assert neo.gradcheck(after, (neo.LiteTensor(0.1, dtype=torch.float64), theta), order=2)


def test_schedule_scales_a_tree_of_rates() -> None:
    rates = step_decay({"a": 0.2, "b": neo.LiteTensor(0.4)}, 0.5, 1)(1)
    assert rates["a"] == pytest.approx(0.1)
    assert rates["b"].item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cosine(0.1, 0), "cosine: expected steps ≥ 1, got 0"),
        (lambda: exponential_decay(0.1, 1.5), r"exponential_decay: expected a factor in \(0, 1\], got 1.5"),
        (lambda: step_decay(0.1, 0.5, 0), "step_decay: expected every ≥ 1, got 0"),
        (lambda: warmup(0, 0.1), "warmup: expected steps ≥ 1, got 0"),
        (lambda: warmup(3, 0.1, -1.0), r"warmup: expected a start in \[0, 1\]"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
