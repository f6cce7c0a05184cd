"""Gradient descent, with and without momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

from neo import pytree
from neo.optim.base import (
    Number,
    Optimizer,
    Rate,
    Schedule,
    adjusted,
    all_moved,
    check_fraction,
    is_zero,
    with_rate,
    zeros_like,
)
from neo.optim.recipe import remakeable
from neo.typing import PyTree

__all__ = ["MomentumState", "momentum", "nesterov", "sgd"]


class MomentumState(NamedTuple):
    """Of momentum with dampening, whose first step is another than the rest."""

    steps: int  # taken so far
    velocity: PyTree  # v, like the parameters


@remakeable
def sgd(
    lr: Rate | Schedule,
    weight_decay: Number = 0.0,
    maximize: bool = False,
    *,
    momentum: Number = 0.0,
    dampening: Number = 0.0,
    nesterov: bool = False,
) -> Optimizer:
    """θ ← θ − α (g + λ θ).

    lr: α ≥ 0, a number, a LiteTensor (then it gets gradients), a pytree of either that mirrors the parameters, or a
    schedule. weight_decay: λ ≥ 0, as torch.optim.SGD has it. maximize: −g in place of g. momentum, dampening, nesterov:
    as neo.optim.momentum takes them, whose state it then is.
    State: None (Scheduled with a schedule).
    """
    if not is_zero(momentum):
        return _momentum(lr, momentum, nesterov, weight_decay, maximize, dampening)
    if nesterov or not is_zero(dampening):
        raise ValueError("sgd: nesterov and dampening are of the momentum; give momentum > 0")

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: None) -> tuple[PyTree, None]:
            return all_moved(params, adjusted(params, grads, weight_decay, maximize), rate), None

        return Optimizer(lambda params: None, step)

    return with_rate("sgd", lr, make)


@remakeable
def momentum(
    lr: Rate | Schedule,
    momentum: Number = 0.9,
    nesterov: bool = False,
    weight_decay: Number = 0.0,
    maximize: bool = False,
    dampening: Number = 0.0,
) -> Optimizer:
    """v ← μ v + (1 − δ) g;  θ ← θ − α v, or θ − α (g + μ v) with nesterov. As torch.optim.SGD.

    dampening: δ; the first step has v = g whatever it is, as torch has it, and nesterov none.
    State: v, like the parameters; MomentumState with dampening.
    """
    check_fraction("momentum", "a momentum", momentum)
    if nesterov and not is_zero(dampening):
        raise ValueError(f"momentum: nesterov has no dampening, got {dampening}")

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: Any) -> tuple[PyTree, Any]:
            grads = adjusted(params, grads, weight_decay, maximize)
            velocity = pytree.tree_map(lambda v, g: v * momentum + g, state, grads)
            direction = (
                pytree.tree_map(lambda g, v: g + v * momentum, grads, velocity) if nesterov else velocity
            )
            return all_moved(params, direction, rate), velocity

        return Optimizer(zeros_like, step)

    def make_dampened(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: MomentumState) -> tuple[PyTree, MomentumState]:
            velocity = grads = adjusted(params, grads, weight_decay, maximize)
            if state.steps:
                velocity = pytree.tree_map(
                    lambda v, g: v * momentum + g * (1 - dampening), state.velocity, grads
                )
            return all_moved(params, velocity, rate), MomentumState(state.steps + 1, velocity)

        return Optimizer(lambda params: MomentumState(0, zeros_like(params)), step)

    return with_rate("momentum", lr, make if is_zero(dampening) else make_dampened)


@remakeable
def nesterov(
    lr: Rate | Schedule, momentum: Number = 0.9, weight_decay: Number = 0.0, maximize: bool = False
) -> Optimizer:
    """v ← μ v + g;  θ ← θ − α (g + μ v): momentum that looks ahead. Nesterov 1983; Sutskever et al. 2013, section 2.

    As torch.optim.SGD(nesterov=True). State: v, like the parameters.
    """
    return _momentum(lr, momentum, True, weight_decay, maximize)


_momentum = momentum  # whose name arguments of the others hide
