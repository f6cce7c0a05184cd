"""Adam and AdamW."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from neo import pytree
from neo.optim.base import (
    Number,
    Optimizer,
    Rate,
    Schedule,
    check_fraction,
    check_not_negative,
    decayed,
    rates_for,
    with_rate,
    zeros_like,
)
from neo.optim.recipe import remakeable
from neo.optim.root import root
from neo.typing import PyTree

__all__ = ["AdamState", "adam", "adamw"]


class AdamState(NamedTuple):
    steps: int  # taken so far
    mean: PyTree  # m, running mean of the gradients, like the parameters
    square: PyTree  # v, running mean of their squares
    largest: PyTree = None  # the largest v so far, where amsgrad


@remakeable
def adam(
    lr: Rate | Schedule,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    maximize: bool = False,
    amsgrad: bool = False,
) -> Optimizer:
    """m ← β₁ m + (1−β₁) g;  v ← β₂ v + (1−β₂) g²;  θ ← θ − α m̂ / (√v̂ + ε), with m̂ = m / (1−β₁ᵗ), v̂ = v / (1−β₂ᵗ).

    Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1; step for step torch.optim.Adam. weight_decay is added to the
    gradient. amsgrad: the largest v so far in place of v (Reddi et al. 2018, arXiv:1904.09237).
    Differentiable also where a gradient is exactly zero (see optim.root). lr, betas, eps and weight_decay may
    be LiteTensors, which get gradients; lr may be a schedule. State: AdamState.
    """
    return _adam("adam", lr, betas, eps, weight_decay, maximize, amsgrad, decoupled=False)


@remakeable
def adamw(
    lr: Rate | Schedule,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 0.01,
    maximize: bool = False,
    amsgrad: bool = False,
) -> Optimizer:
    """Adam with θ ← (1 − α λ) θ before the step in place of λ θ in the gradient.

    Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2; step for step torch.optim.AdamW. State: AdamState.
    """
    return _adam("adamw", lr, betas, eps, weight_decay, maximize, amsgrad, decoupled=True)


def _adam(
    name: str,
    lr: Rate | Schedule,
    betas: tuple[Number, Number],
    eps: Number,
    weight_decay: Number,
    maximize: bool,
    amsgrad: bool,
    decoupled: bool,
) -> Optimizer:
    for beta in betas:
        check_fraction(name, "both betas", beta)
    check_not_negative(name, "eps", eps)
    beta1, beta2 = betas

    def init(params: PyTree) -> AdamState:
        return AdamState(0, zeros_like(params), zeros_like(params), zeros_like(params) if amsgrad else None)

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: AdamState) -> tuple[PyTree, AdamState]:
            t = state.steps + 1
            rates = rates_for(rate, params)
            params, grads = decayed(params, grads, rates, weight_decay, decoupled, maximize)
            mean = pytree.tree_map(lambda m, g: m * beta1 + g * (1 - beta1), state.mean, grads)
            square = pytree.tree_map(lambda v, g: v * beta2 + g * g * (1 - beta2), state.square, grads)
            largest: PyTree = None
            if amsgrad:
                largest = pytree.tree_map(torch.maximum, state.largest, square)
            scale1, scale2 = 1 - beta1**t, (1 - beta2**t) ** 0.5

            def update(p: Any, m: Any, v: Any, a: Any) -> Any:
                return p - m / (root(v) / scale2 + eps) * (a / scale1)

            new = pytree.tree_map(update, params, mean, largest if amsgrad else square, rates)
            return new, AdamState(t, mean, square, largest)

        return Optimizer(init, step)

    return with_rate(name, lr, make)
