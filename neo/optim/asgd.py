"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any, NamedTuple

from neo import pytree
from neo.optim.base import (
    Number,
    Optimizer,
    Rate,
    Schedule,
    adjusted,
    check_not_negative,
    rates_for,
    with_rate,
    zeros_like,
)
from neo.optim.recipe import remakeable
from neo.typing import PyTree

__all__ = ["AsgdState", "asgd"]


class AsgdState(NamedTuple):
    steps: int  # taken so far
    average: PyTree  # of the parameters after step t0, like them; before it, the parameters


@remakeable
def asgd(
    lr: Rate | Schedule = 1e-2,
    lambd: Number = 1e-4,
    alpha: Number = 0.75,
    t0: float = 1e6,
    weight_decay: Number = 0.0,
    maximize: bool = False,
) -> Optimizer:
    """θ ← (1 − λ η) θ − η g, η = α / (1 + λ α t)^κ;  a ← a + (θ − a) / max(1, t − t0), t the steps taken before.

    κ is torch's `alpha`, α its `lr`. Polyak and Juditsky 1992, SIAM J. Control 30; step for step torch.optim.ASGD. What
    it learns is state.average, not the parameters. lr, lambd, alpha and weight_decay may be LiteTensors, which get
    gradients; lr may be a schedule. State: AsgdState.
    """
    check_not_negative("asgd", "weight_decay", weight_decay)

    def init(params: PyTree) -> AsgdState:
        return AsgdState(0, zeros_like(params))

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: AsgdState) -> tuple[PyTree, AsgdState]:
            t = state.steps
            grads = adjusted(params, grads, weight_decay, maximize)

            def update(p: Any, g: Any, a: Any) -> Any:
                eta = a / (1 + lambd * a * t) ** alpha
                return p * (1 - lambd * eta) - g * eta

            new = pytree.tree_map(update, params, grads, rates_for(rate, params))
            share = 1 / max(1, t - t0)
            average = new
            if share != 1:
                average = pytree.tree_map(lambda a, p: a + (p - a) * share, state.average, new)
            return new, AsgdState(t + 1, average)

        return Optimizer(init, step)

    return with_rate("asgd", lr, make)
