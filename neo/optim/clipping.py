"""Clipping gradients: pure functions of pytrees, and as a stage before an optimiser."""

from __future__ import annotations

from typing import Any

import torch

from neo import pytree
from neo.functions._kinks import kinked
from neo.functions.registry import raw
from neo.optim.base import Number, Optimizer, check_not_negative
from neo.optim.recipe import remakeable
from neo.optim.root import root
from neo.typing import PyTree

__all__ = ["clip_by_global_norm", "clip_by_value", "clipped", "global_norm"]


def global_norm(grads: PyTree) -> Any:
    """√(Σ g²) over all entries of all leaves, a 0-dim LiteTensor.

    Its derivative at zero is taken as 0; a second one does not exist there, and is NaN.
    """
    total = _sum_of_squares(grads)
    return root(kinked(total, raw(total) == 0))


def _sum_of_squares(grads: PyTree) -> Any:
    leaves = pytree.leaves(grads)
    if not leaves:
        raise ValueError("global_norm: expected at least one tensor in the pytree, got none")
    squares = [torch.sum(g * g) for g in leaves]
    return sum(squares[1:], start=squares[0])


def clip_by_global_norm(grads: PyTree, max_norm: Number) -> PyTree:
    """g · min(1, c / (‖g‖ + 1e-6)), ‖g‖ over all leaves together; as torch.nn.utils.clip_grad_norm_.

    Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, Algorithm 1. max_norm: c ≥ 0, may be a LiteTensor.
    """
    check_not_negative("clip_by_global_norm", "max_norm", max_norm)
    total = _sum_of_squares(grads)
    bound = raw(max_norm)
    # A short gradient is left alone, kink of its norm included: what the other branch makes of it must not come in.
    short = torch.sqrt(raw(total)) + 1e-6 <= bound
    total = torch.where(short, 1.0, total)
    factor: Any = torch.where(short, 1.0, max_norm / (root(kinked(total, raw(total) == 0)) + 1e-6))
    return pytree.tree_map(lambda g: g * factor, grads)


def clip_by_value(grads: PyTree, limit: float) -> PyTree:
    """Every entry brought into [−limit, limit]; as torch.nn.utils.clip_grad_value_. Where it was out, nothing flows."""
    check_not_negative("clip_by_value", "limit", limit)
    return pytree.tree_map(lambda g: torch.clamp(g, -limit, limit), grads)


@remakeable
def clipped(optimizer: Optimizer, *, norm: Number | None = None, value: float | None = None) -> Optimizer:
    """optimizer, given clipped gradients: by their global norm, by value, or first by value and then by norm.

    neo.optim.clipped(neo.optim.adam(1e-3), norm=1.0). State: the optimiser's own.
    """
    if norm is None and value is None:
        raise ValueError("clipped: say how, by norm=..., value=... or both")

    def step(params: PyTree, grads: PyTree, state: Any) -> tuple[PyTree, Any]:
        if value is not None:
            grads = clip_by_value(grads, value)
        if norm is not None:
            grads = clip_by_global_norm(grads, norm)
        return optimizer.step(params, grads, state)

    return Optimizer(optimizer.init, step)
