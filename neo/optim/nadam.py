"""NAdam: Adam with Nesterov's momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

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

__all__ = ["NadamState", "nadam"]


class NadamState(NamedTuple):
    steps: int  # taken so far
    product: Number  # Π, of the momenta μ₁ to μₜ
    mean: PyTree  # m, running mean of the gradients, like the parameters
    square: PyTree  # v, running mean of their squares


@remakeable
def nadam(
    lr: Rate | Schedule = 2e-3,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    momentum_decay: Number = 4e-3,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Optimizer:
    """θ ← θ − α [(1−μₜ) g / (1−Πₜ) + μₜ₊₁ m / (1−Πₜ₊₁)] / (√v̂ + ε), with m, v̂ as Adam has them.

    μₜ = β₁ (1 − 0.96^(t ψ) / 2), ψ = momentum_decay, and Πₜ = μ₁ ⋯ μₜ. Dozat 2016, ICLR workshop; step for step
    torch.optim.NAdam. decoupled_weight_decay: θ ← (1 − α λ) θ before the step in place of λ θ in the gradient.
    Differentiable also where a gradient is exactly zero (see optim.root). All numbers may be LiteTensors, which get
    gradients; lr may be a schedule. State: NadamState.
    """
    for beta in betas:
        check_fraction("nadam", "both betas", beta)
    for what, number in (("eps", eps), ("weight_decay", weight_decay), ("momentum_decay", momentum_decay)):
        check_not_negative("nadam", what, number)
    beta1, beta2 = betas

    def init(params: PyTree) -> NadamState:
        return NadamState(0, 1.0, zeros_like(params), zeros_like(params))

    def momentum(t: int) -> Any:
        return beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: NadamState) -> tuple[PyTree, NadamState]:
            t = state.steps + 1
            rates = rates_for(rate, params)
            params, grads = decayed(params, grads, rates, weight_decay, decoupled_weight_decay, maximize)
            mean = pytree.tree_map(lambda m, g: m * beta1 + g * (1 - beta1), state.mean, grads)
            square = pytree.tree_map(lambda v, g: v * beta2 + g * g * (1 - beta2), state.square, grads)
            now, following = momentum(t), momentum(t + 1)
            product = state.product * now
            share, share_of_mean = (1 - now) / (1 - product), following / (1 - product * following)
            scale = 1 - beta2**t

            def update(p: Any, g: Any, m: Any, v: Any, a: Any) -> Any:
                return p - (g * share + m * share_of_mean) / (root(v / scale) + eps) * a

            new = pytree.tree_map(update, params, grads, mean, square, rates)
            return new, NadamState(t, product, mean, square)

        return Optimizer(init, step)

    return with_rate("nadam", lr, make)
