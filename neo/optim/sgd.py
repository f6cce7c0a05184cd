"""Gradient descent, with and without momentum."""

from __future__ import annotations

from typing import Any

from neo import pytree
from neo.optim.base import (
    Number,
    Optimizer,
    Rate,
    Schedule,
    adjusted,
    all_moved,
    check_fraction,
    with_rate,
    zeros_like,
)
from neo.typing import PyTree

__all__ = ["momentum", "nesterov", "sgd"]


def sgd(lr: Rate | Schedule, weight_decay: Number = 0.0, maximize: bool = False) -> Optimizer:
    """θ ← θ − α (g + λ θ).

    lr: α > 0, a number, a LiteTensor (then it gets gradients), a pytree of either that mirrors the parameters, or a
    schedule. weight_decay: λ ≥ 0, as torch.optim.SGD has it. maximize: −g in place of g.
    State: None (Scheduled with a schedule).
    """

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: None) -> tuple[PyTree, None]:
            return all_moved(params, adjusted(params, grads, weight_decay, maximize), rate), None

        return Optimizer(lambda params: None, step)

    return with_rate("sgd", lr, make)


def momentum(
    lr: Rate | Schedule,
    momentum: Number = 0.9,
    nesterov: bool = False,
    weight_decay: Number = 0.0,
    maximize: bool = False,
) -> Optimizer:
    """v ← μ v + g;  θ ← θ − α v, or θ − α (g + μ v) with nesterov. As torch.optim.SGD.

    State: v, like the parameters.
    """
    check_fraction("momentum", "a momentum", momentum)

    def make(rate: Rate) -> Optimizer:
        def step(params: PyTree, grads: PyTree, state: Any) -> tuple[PyTree, Any]:
            grads = adjusted(params, grads, weight_decay, maximize)
            velocity = pytree.tree_map(lambda v, g: v * momentum + g, state, grads)
            direction = (
                pytree.tree_map(lambda g, v: g + v * momentum, grads, velocity) if nesterov else velocity
            )
            return all_moved(params, direction, rate), velocity

        return Optimizer(zeros_like, step)

    return with_rate("momentum", lr, make)


def nesterov(
    lr: Rate | Schedule, momentum: Number = 0.9, weight_decay: Number = 0.0, maximize: bool = False
) -> Optimizer:
    """v ← μ v + g;  θ ← θ − α (g + μ v): momentum that looks ahead. Nesterov 1983; Sutskever et al. 2013, section 2.

    As torch.optim.SGD(nesterov=True). State: v, like the parameters.
    """
    return _momentum(lr, momentum, True, weight_decay, maximize)


_momentum = momentum  # whose name nesterov's own argument hides
