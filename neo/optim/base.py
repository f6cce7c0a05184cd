"""An optimiser is a pair of pure functions, so that an inner loop can be differentiated through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optree

from neo.functions.arithmetic import add_scaled
from neo.functions.foreach import descend
from neo.tensor import LiteTensor
from neo.typing import PyTree

__all__ = ["Optimizer", "Rate", "moved", "rates_for", "zeros_like"]

Rate = float | LiteTensor | PyTree
"""A learning rate: one number or 0-dim tensor for all parameters, or a pytree that mirrors them (Meta-SGD)."""


class Optimizer(NamedTuple):
    """init(params) → state;  step(params, grads, state) → (new params, new state).

    Params and grads are pytrees of LiteTensors of the same structure; nothing is changed in place. With sessions open,
    a step is differentiated like any other code: through the gradients, the state, and rates given as LiteTensors.
    """

    init: Callable[[PyTree], Any]
    step: Callable[[PyTree, PyTree, Any], tuple[PyTree, Any]]


def rates_for(lr: Rate, params: PyTree) -> PyTree:
    """One rate per leaf of params. Raises ValueError when a pytree of rates does not mirror params."""
    if isinstance(lr, int | float | LiteTensor):
        return optree.tree_map(lambda _: lr, params)
    if optree.tree_structure(lr) != optree.tree_structure(params):
        raise ValueError(
            f"lr: expected a number, a tensor, or a pytree that mirrors the parameters; got the structure "
            f"{optree.tree_structure(lr)}, expected {optree.tree_structure(params)}"
        )
    return lr


def moved(param: Any, direction: Any, rate: Any) -> Any:
    """param − rate · direction; one kernel where the rate is a number."""
    return add_scaled(param, direction, -rate) if isinstance(rate, int | float) else param - rate * direction


def all_moved(params: PyTree, directions: PyTree, rate: Rate) -> PyTree:
    """moved, leaf by leaf; as one op where the rate is one number and every leaf has its direction's layout."""
    leaves, spec = optree.tree_flatten(params)
    along = optree.tree_leaves(directions)
    if isinstance(rate, int | float) and len(leaves) == len(along) and all(map(_alike, leaves, along)):
        return optree.tree_unflatten(spec, descend(leaves, along, rate)) if leaves else params
    return optree.tree_map(moved, params, directions, rates_for(rate, params))


def _alike(param: Any, direction: Any) -> bool:
    return (
        isinstance(param, LiteTensor)
        and isinstance(direction, LiteTensor)
        and param.shape == direction.shape
        and param.dtype is direction.dtype
        and param.device == direction.device
    )


def zeros_like(params: PyTree) -> PyTree:
    return optree.tree_map(lambda leaf: LiteTensor(leaf.data.new_zeros(leaf.shape)), params)


def check_rate(name: str, lr: Rate) -> None:
    if isinstance(lr, int | float) and not lr > 0:
        raise ValueError(f"{name}: lr must be greater than 0, got {lr}")
