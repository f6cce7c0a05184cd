"""RMSprop."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from neo import pytree
from neo.optim.base import (
    Number,
    Optimizer,
    Rate,
    Schedule,
    adjusted,
    check_fraction,
    check_not_negative,
    is_zero,
    moved,
    rates_for,
    with_rate,
    zeros_like,
)
from neo.optim.recipe import remakeable
from neo.optim.root import root
from neo.typing import PyTree

__all__ = ["RMSpropState", "rmsprop"]


class RMSpropState(NamedTuple):
    square: PyTree  # v, running mean of squared gradients, like the parameters
    mean: PyTree  # ḡ, running mean of the gradients, where centered; else None
    velocity: PyTree  # b, where there is momentum; else None


@remakeable
def rmsprop(
    lr: Rate | Schedule,
    alpha: Number = 0.99,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    momentum: Number = 0.0,
    centered: bool = False,
    maximize: bool = False,
) -> Optimizer:
    """v ← α v + (1−α) g²;  b ← μ b + g / (√v + ε);  θ ← θ − η b.

    Tieleman and Hinton 2012, Coursera lecture 6e; centered, with v − ḡ² in place of v, Graves 2013, arXiv:1308.0850.
    Step for step torch.optim.RMSprop, whose names these are: alpha the decay α, lr the rate η. Differentiable also
    where a gradient is exactly zero (see optim.root); where rounding leaves v − ḡ² no more than 0, it counts as 0, a
    constant. All numbers may be LiteTensors, which get gradients; lr may be a schedule. State: RMSpropState.
    """
    check_fraction("rmsprop", "alpha", alpha)
    check_fraction("rmsprop", "a momentum", momentum)
    check_not_negative("rmsprop", "eps", eps)

    def init(params: PyTree) -> RMSpropState:
        mean = zeros_like(params) if centered else None
        velocity = None if is_zero(momentum) else zeros_like(params)
        return RMSpropState(zeros_like(params), mean, velocity)

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: RMSpropState) -> tuple[PyTree, RMSpropState]:
            grads = adjusted(params, grads, weight_decay, maximize)
            square = pytree.tree_map(lambda v, g: v * alpha + g * g * (1 - alpha), state.square, grads)
            mean, spread = None, square
            if centered:
                mean = pytree.tree_map(lambda m, g: m * alpha + g * (1 - alpha), state.mean, grads)
                spread = pytree.tree_map(lambda v, m: torch.relu(v - m * m), square, mean)
            direction = pytree.tree_map(lambda g, v: g / (root(v) + eps), grads, spread)
            velocity: Any = None
            if not is_zero(momentum):
                direction = velocity = pytree.tree_map(
                    lambda b, d: b * momentum + d, state.velocity, direction
                )
            return (
                pytree.tree_map(moved, params, direction, rates_for(rate, params)),
                RMSpropState(square, mean, velocity),
            )

        return Optimizer(init, step)

    return with_rate("rmsprop", lr, make)
