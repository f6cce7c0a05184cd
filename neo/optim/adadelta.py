"""Adadelta."""

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
    moved,
    rates_for,
    with_rate,
    zeros_like,
)
from neo.optim.recipe import remakeable
from neo.typing import PyTree

__all__ = ["AdadeltaState", "adadelta"]


class AdadeltaState(NamedTuple):
    square: PyTree  # v, running mean of squared gradients, like the parameters
    delta: PyTree  # u, running mean of squared steps


@remakeable
def adadelta(
    lr: Rate | Schedule = 1.0,
    rho: Number = 0.9,
    eps: Number = 1e-6,
    weight_decay: Number = 0.0,
    maximize: bool = False,
) -> Optimizer:
    """v ← ρ v + (1−ρ) g²;  δ = √(u + ε) / √(v + ε) · g;  u ← ρ u + (1−ρ) δ²;  θ ← θ − α δ.

    Zeiler 2012, arXiv:1212.5701; step for step torch.optim.Adadelta. All numbers may be LiteTensors, which get
    gradients; lr may be a schedule. State: AdadeltaState.
    """
    check_fraction("adadelta", "rho", rho, closed=True)
    check_not_negative("adadelta", "eps", eps)
    check_not_negative("adadelta", "weight_decay", weight_decay)

    def init(params: PyTree) -> AdadeltaState:
        return AdadeltaState(zeros_like(params), zeros_like(params))

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: AdadeltaState) -> tuple[PyTree, AdadeltaState]:
            grads = adjusted(params, grads, weight_decay, maximize)
            square = pytree.tree_map(lambda v, g: v * rho + g * g * (1 - rho), state.square, grads)

            def direction(g: Any, v: Any, u: Any) -> Any:
                return torch.sqrt(u + eps) / torch.sqrt(v + eps) * g

            steps = pytree.tree_map(direction, grads, square, state.delta)
            delta = pytree.tree_map(lambda u, d: u * rho + d * d * (1 - rho), state.delta, steps)
            new = pytree.tree_map(moved, params, steps, rates_for(rate, params))
            return new, AdadeltaState(square, delta)

        return Optimizer(init, step)

    return with_rate("adadelta", lr, make)
