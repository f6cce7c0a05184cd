"""Adamax."""

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
    rates_for,
    with_rate,
    zeros_like,
)
from neo.optim.recipe import remakeable
from neo.typing import PyTree

__all__ = ["AdamaxState", "adamax"]


class AdamaxState(NamedTuple):
    steps: int  # taken so far
    mean: PyTree  # m, running mean of the gradients, like the parameters
    largest: PyTree  # u, the largest gradient so far, decaying


@remakeable
def adamax(
    lr: Rate | Schedule = 2e-3,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    maximize: bool = False,
) -> Optimizer:
    """m ← β₁ m + (1−β₁) g;  u ← max(β₂ u, |g| + ε);  θ ← θ − α / (1−β₁ᵗ) · m / u.

    Kingma and Ba 2015, arXiv:1412.6980, Algorithm 2; step for step torch.optim.Adamax. All numbers may be LiteTensors,
    which get gradients; lr may be a schedule. State: AdamaxState.
    """
    for beta in betas:
        check_fraction("adamax", "both betas", beta)
    check_not_negative("adamax", "eps", eps)
    check_not_negative("adamax", "weight_decay", weight_decay)
    beta1, beta2 = betas

    def init(params: PyTree) -> AdamaxState:
        return AdamaxState(0, zeros_like(params), zeros_like(params))

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: AdamaxState) -> tuple[PyTree, AdamaxState]:
            t = state.steps + 1
            grads = adjusted(params, grads, weight_decay, maximize)
            mean = pytree.tree_map(lambda m, g: m * beta1 + g * (1 - beta1), state.mean, grads)
            largest = pytree.tree_map(
                lambda u, g: torch.maximum(u * beta2, torch.abs(g) + eps), state.largest, grads
            )
            scale = 1 - beta1**t

            def update(p: Any, m: Any, u: Any, a: Any) -> Any:
                return p - m / u * (a / scale)

            new = pytree.tree_map(update, params, mean, largest, rates_for(rate, params))
            return new, AdamaxState(t, mean, largest)

        return Optimizer(init, step)

    return with_rate("adamax", lr, make)
