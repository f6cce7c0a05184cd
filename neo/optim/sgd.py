"""Gradient descent, with and without momentum."""

from __future__ import annotations

from typing import Any

import optree

from neo.optim.base import Optimizer, Rate, all_moved, check_rate, moved, rates_for, zeros_like
from neo.typing import PyTree

__all__ = ["momentum", "sgd"]


def sgd(lr: Rate, weight_decay: float = 0.0) -> Optimizer:
    """θ ← θ − α (g + λ θ).

    lr: α > 0, a number, a LiteTensor (then it gets gradients), or a pytree of either that mirrors the parameters.
    weight_decay: λ ≥ 0, as torch.optim.SGD has it. State: None.
    """
    check_rate("sgd", lr)

    def step(params: PyTree, grads: PyTree, state: None) -> tuple[PyTree, None]:
        grads = (
            optree.tree_map(lambda g, p: _decayed(g, p, weight_decay), grads, params)
            if weight_decay
            else grads
        )
        return all_moved(params, grads, lr), None

    return Optimizer(lambda params: None, step)


def momentum(lr: Rate, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0) -> Optimizer:
    """v ← μ v + g;  θ ← θ − α v, or θ − α (g + μ v) with nesterov. As torch.optim.SGD.

    State: v, like the parameters.
    """
    check_rate("momentum", lr)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum: expected a momentum in [0, 1), got {momentum}")

    def step(params: PyTree, grads: PyTree, state: Any) -> tuple[PyTree, Any]:
        grads = optree.tree_map(lambda g, p: _decayed(g, p, weight_decay), grads, params)
        velocity = optree.tree_map(lambda v, g: v * momentum + g, state, grads)
        direction = optree.tree_map(lambda g, v: g + v * momentum, grads, velocity) if nesterov else velocity
        return optree.tree_map(moved, params, direction, rates_for(lr, params)), velocity

    return Optimizer(zeros_like, step)


def _decayed(g: Any, p: Any, weight_decay: float) -> Any:
    return g + p * weight_decay if weight_decay else g
