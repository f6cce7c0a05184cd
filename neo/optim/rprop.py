"""Rprop: steps by the signs of gradients alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from neo import pytree
from neo.autograd.tensor import LiteTensor
from neo.optim.base import Number, Optimizer, Rate, adjusted, check_rate, rates_for, zeros_like
from neo.optim.recipe import remakeable
from neo.typing import PyTree

__all__ = ["RpropState", "rprop"]


class RpropState(NamedTuple):
    previous: PyTree  # the gradients of the step before, 0 where a sign had changed; like the parameters
    sizes: PyTree  # s, of the next step


@remakeable
def rprop(
    lr: Rate = 1e-2,
    etas: tuple[Number, Number] = (0.5, 1.2),
    step_sizes: tuple[float, float] = (1e-6, 50.0),
    maximize: bool = False,
) -> Optimizer:
    """s ← s η₊ where g keeps its sign, s η₋ where it changes, in step_sizes;  θ ← θ − s sign(g), 0 where it changed.

    Riedmiller and Braun 1993, ICNN; step for step torch.optim.Rprop. lr: the first step sizes, ≥ 0; a number, a tensor,
    or a pytree that mirrors the parameters, no schedule, for later steps do not read it. lr and etas may be
    LiteTensors, which get gradients; none flows through the signs. State: RpropState.
    """
    if callable(lr):
        raise TypeError("rprop: lr is the size of the first step alone, so that it cannot be a schedule")
    check_rate("rprop", lr)
    shrink, grow = etas
    numbers = [eta for eta in etas if not isinstance(eta, LiteTensor)]
    if len(numbers) == 2 and not 0 < shrink < 1 < grow:
        raise ValueError(f"rprop: expected etas with 0 < η₋ < 1 < η₊, got {etas}")
    low, high = step_sizes

    def init(params: PyTree) -> RpropState:
        def size(zero: Any, a: Any) -> Any:
            return zero + a

        zeros = zeros_like(params)
        return RpropState(zeros, pytree.tree_map(size, zeros, rates_for(lr, params)))

    def step(params: PyTree, grads: PyTree, state: RpropState) -> tuple[PyTree, RpropState]:
        grads = adjusted(params, grads, 0.0, maximize)
        agree = pytree.tree_map(lambda g, b: (g * b).detach(), grads, state.previous)

        def resized(s: Any, same: Any) -> Any:
            factor = torch.where(same > 0, s * grow, torch.where(same < 0, s * shrink, s))
            return torch.clamp(factor, low, high)

        sizes = pytree.tree_map(resized, state.sizes, agree)
        kept = pytree.tree_map(lambda g, same: torch.where(same < 0, 0.0, g), grads, agree)
        new = pytree.tree_map(lambda p, g, s: p - torch.sign(g) * s, params, kept, sizes)
        return new, RpropState(kept, sizes)

    return Optimizer(init, step)
