"""RAdam: Adam that steps by momentum alone until its second moment is known well enough."""

from __future__ import annotations

from typing import Any

from neo import pytree
from neo.optim.adam import AdamState
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

__all__ = ["radam"]


@remakeable
def radam(
    lr: Rate | Schedule = 1e-3,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Optimizer:
    """θ ← θ − α m̂ r √(1−β₂ᵗ) / (√v + ε) where ρₜ > 5, else θ ← θ − α m̂, with m̂, v as Adam has them.

    ρ∞ = 2 / (1−β₂) − 1;  ρₜ = ρ∞ − 2 t β₂ᵗ / (1−β₂ᵗ);  r² = (ρₜ−4) (ρₜ−2) ρ∞ / ((ρ∞−4) (ρ∞−2) ρₜ). Liu et al. 2020,
    arXiv:1908.03265, Algorithm 2; step for step torch.optim.RAdam. decoupled_weight_decay: θ ← (1 − α λ) θ before the
    step in place of λ θ in the gradient. Differentiable also where a gradient is exactly zero (see optim.root). All
    numbers may be LiteTensors, which get gradients (β₂ is read to find ρₜ > 5, so not under vmap); lr may be a
    schedule. State: AdamState.
    """
    for beta in betas:
        check_fraction("radam", "both betas", beta)
    check_not_negative("radam", "eps", eps)
    check_not_negative("radam", "weight_decay", weight_decay)
    beta1, beta2 = betas

    def init(params: PyTree) -> AdamState:
        return AdamState(0, zeros_like(params), zeros_like(params))

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: AdamState) -> tuple[PyTree, AdamState]:
            t = state.steps + 1
            rates = rates_for(rate, params)
            params, grads = decayed(params, grads, rates, weight_decay, decoupled_weight_decay, maximize)
            mean = pytree.tree_map(lambda m, g: m * beta1 + g * (1 - beta1), state.mean, grads)
            square = pytree.tree_map(lambda v, g: v * beta2 + g * g * (1 - beta2), state.square, grads)
            scale1, scale2 = 1 - beta1**t, 1 - beta2**t
            limit: Any = 2 / (1 - beta2) - 1
            length: Any = limit - 2 * t * beta2**t / scale2
            known = float(length) > 5
            rectified: Any = None
            if known:
                ratio = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
                rectified = (ratio * scale2) ** 0.5

            def update(p: Any, m: Any, v: Any, a: Any) -> Any:
                direction = m / (root(v) + eps) * rectified if known else m
                return p - direction * (a / scale1)

            return pytree.tree_map(update, params, mean, square, rates), AdamState(t, mean, square)

        return Optimizer(init, step)

    return with_rate("radam", lr, make)
