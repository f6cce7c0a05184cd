"""Schedules: a rate as a pure function of the steps taken before, usable wherever an optimiser takes its rate.

    optimizer = neo.optim.adam(neo.optim.warmup(100, neo.optim.cosine(1e-3, 10_000)))

schedule(0) is the rate of the first step. A rate may be a number, a LiteTensor, which gets gradients, or a pytree of
either that mirrors the parameters. Any function of the step is a schedule; these are the common ones.
"""

from __future__ import annotations

import math
from typing import Any

from neo import pytree
from neo.optim.base import Rate, Schedule
from neo.optim.recipe import remakeable

__all__ = ["constant", "cosine", "exponential_decay", "step_decay", "warmup", "warmup_cosine"]


@remakeable
def constant(rate: Rate) -> Schedule:
    """The same rate at every step."""
    return lambda step: rate


@remakeable
def cosine(rate: Rate, steps: int, final: float = 0.0) -> Schedule:
    """From rate to final · rate along half a cosine, over `steps` steps; final · rate ever after.

    α (φ + (1 − φ) (1 + cos(π t/T)) / 2). Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts;
    torch.optim.lr_scheduler.CosineAnnealingLR up to T.
    """
    _expect_steps("cosine", steps)
    return lambda step: _scaled(
        rate, final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
    )


@remakeable
def exponential_decay(rate: Rate, factor: float) -> Schedule:
    """α γᵗ, factor γ in (0, 1]; torch.optim.lr_scheduler.ExponentialLR."""
    _expect_factor("exponential_decay", factor)
    return lambda step: _scaled(rate, factor**step)


@remakeable
def step_decay(rate: Rate, factor: float, every: int) -> Schedule:
    """α γ^⌊t/every⌋: times γ after each `every` steps; torch.optim.lr_scheduler.StepLR."""
    _expect_factor("step_decay", factor)
    _expect_steps("step_decay", every, "every")
    return lambda step: _scaled(rate, factor ** (step // every))


@remakeable
def warmup(steps: int, then: Rate | Schedule, start: float = 0.0) -> Schedule:
    """Linearly from start · then(0) to then(0) over `steps` steps, and from there on `then`, counted from its own 0.

    With start = 0 the first step does nothing. As torch's LinearLR(start_factor=start) and then the other, in turn.
    """
    _expect_steps("warmup", steps)
    if not 0 <= start <= 1:
        raise ValueError(f"warmup: expected a start in [0, 1], a fraction of the rate, got {start}")
    follow: Schedule = then if callable(then) else constant(then)

    def schedule(step: int) -> Rate:
        if step < steps:
            return _scaled(follow(0), start + (1 - start) * step / steps)
        return follow(step - steps)

    return schedule


@remakeable
def warmup_cosine(
    rate: Rate, steps: int, warmup_steps: int, start: float = 0.0, final: float = 0.0
) -> Schedule:
    """warmup from start · rate to rate, then cosine to final · rate, over `steps` steps in all.

    Raises: ValueError where the warm-up leaves none of them.
    """
    if not warmup_steps < steps:
        raise ValueError(
            f"warmup_cosine: expected warmup_steps below the {steps} steps in all, got {warmup_steps}"
        )
    return warmup(warmup_steps, cosine(rate, steps - warmup_steps, final), start)


def _scaled(rate: Any, factor: float) -> Any:
    return pytree.tree_map(lambda a: a * factor, rate)


def _expect_steps(name: str, steps: int, what: str = "steps") -> None:
    if not steps >= 1:
        raise ValueError(f"{name}: expected {what} ≥ 1, got {steps}")


def _expect_factor(name: str, factor: float) -> None:
    if not 0 < factor <= 1:
        raise ValueError(f"{name}: expected a factor in (0, 1], got {factor}")
