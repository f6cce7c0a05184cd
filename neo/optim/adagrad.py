"""Adagrad."""

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
    is_zero,
    moved,
    rates_for,
    with_rate,
    zeros_like,
)
from neo.optim.recipe import remakeable
from neo.optim.root import root
from neo.typing import PyTree

__all__ = ["AdagradState", "adagrad"]


class AdagradState(NamedTuple):
    steps: int  # taken so far
    square: PyTree  # v, the sum of squared gradients, like the parameters


@remakeable
def adagrad(
    lr: Rate | Schedule,
    lr_decay: Number = 0.0,
    weight_decay: Number = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: Number = 1e-10,
    maximize: bool = False,
) -> Optimizer:
    """v ← v + g²;  θ ← θ − α / (1 + t δ) · g / (√v + ε), t the steps taken before.

    Duchi, Hazan and Singer 2011, JMLR 12; step for step torch.optim.Adagrad, whose names these are: lr_decay is δ.
    Differentiable also where a gradient is exactly zero (see optim.root). Numbers may be LiteTensors, which get
    gradients; lr may be a schedule. State: AdagradState.
    """
    check_not_negative("adagrad", "lr_decay", lr_decay)
    check_not_negative("adagrad", "initial_accumulator_value", initial_accumulator_value)
    check_not_negative("adagrad", "eps", eps)

    def init(params: PyTree) -> AdagradState:
        return AdagradState(0, zeros_like(params, initial_accumulator_value))

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: AdagradState) -> tuple[PyTree, AdagradState]:
            grads = adjusted(params, grads, weight_decay, maximize)
            square = pytree.tree_map(lambda v, g: v + g * g, state.square, grads)
            rates = rates_for(rate, params)
            if not is_zero(lr_decay):
                decay: Any = 1 + state.steps * lr_decay
                rates = pytree.tree_map(lambda a: a / decay, rates)
            direction = pytree.tree_map(lambda g, v: g / (root(v) + eps), grads, square)
            return pytree.tree_map(moved, params, direction, rates), AdagradState(state.steps + 1, square)

        return Optimizer(init, step)

    return with_rate("adagrad", lr, make)
