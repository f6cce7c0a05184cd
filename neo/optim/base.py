"""An optimiser is a pair of pure functions, so that an inner loop can be differentiated through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from neo import pytree
from neo.autograd._queries import all_alike
from neo.autograd.tensor import LiteTensor
from neo.functions.arithmetic import add_scaled
from neo.functions.foreach import descend
from neo.typing import PyTree

__all__ = ["Number", "Optimizer", "Rate", "Schedule", "Scheduled", "moved", "rates_for", "zeros_like"]

Rate = float | LiteTensor | PyTree
"""A learning rate: one number or 0-dim tensor for all parameters, or a pytree that mirrors them (Meta-SGD)."""

Schedule = Callable[[int], Rate]
"""A rate as a function of the steps taken before: schedule(0) is the rate of the first step."""

Number = float | LiteTensor
"""A hyperparameter: a number, or a 0-dim LiteTensor, which then gets gradients like any other tensor."""


class Optimizer(NamedTuple):
    """init(params) → state;  step(params, grads, state) → (new params, new state).

    Params and grads are pytrees of LiteTensors of the same structure; nothing is changed in place. With sessions open,
    a step is differentiated like any other code: through the gradients, the state, and what is given as LiteTensors.
    """

    init: Callable[[PyTree], Any]
    step: Callable[[PyTree, PyTree, Any], tuple[PyTree, Any]]


class Scheduled(NamedTuple):
    """The state of an optimiser whose rate is a schedule."""

    steps: int  # taken so far
    state: Any  # of the optimiser as it would be without a schedule


def with_rate(name: str, lr: Rate | Schedule, make: Callable[[Rate], Optimizer]) -> Optimizer:
    """make(lr); or, where lr is a schedule, an optimiser that counts its steps and takes each with make(lr(count))."""
    if not callable(lr):
        check_rate(name, lr)
        return make(lr)
    schedule = lr

    def step(params: PyTree, grads: PyTree, state: Scheduled) -> tuple[PyTree, Scheduled]:
        params, inner = make(schedule(state.steps)).step(params, grads, state.state)
        return params, Scheduled(state.steps + 1, inner)

    return Optimizer(lambda params: Scheduled(0, make(schedule(0)).init(params)), step)


def rates_for(lr: Rate, params: PyTree) -> PyTree:
    """One rate per leaf of params. Raises ValueError when a pytree of rates does not mirror params."""
    if is_number(lr) or isinstance(lr, LiteTensor):
        return pytree.tree_map(lambda _: lr, params)
    if pytree.structure(lr) != pytree.structure(params):
        raise ValueError(
            f"lr: expected a number, a tensor, or a pytree that mirrors the parameters; got the structure "
            f"{pytree.structure(lr)}, expected {pytree.structure(params)}"
        )
    return lr


def moved(param: Any, direction: Any, rate: Any) -> Any:
    """param − rate · direction; one kernel where the rate is a number."""
    return add_scaled(param, direction, -rate) if is_number(rate) else param - rate * direction


def all_moved(params: PyTree, directions: PyTree, rate: Rate) -> PyTree:
    """moved, leaf by leaf; as one op where the rate is one number and every leaf has its direction's layout."""
    leaves, spec = pytree.flatten(params)
    along, _ = pytree.flatten(directions)
    if is_number(rate) and all_alike(leaves, along):
        return pytree.unflatten(spec, descend(leaves, along, rate)) if leaves else params
    return pytree.tree_map(moved, params, directions, rates_for(rate, params))


def adjusted(params: PyTree, grads: PyTree, weight_decay: Number, maximize: bool) -> PyTree:
    """The gradients as torch.optim takes them: negated to maximize, then with λ θ added. Zero numbers cost nothing."""
    if maximize:
        grads = pytree.tree_map(lambda g: -g, grads)
    if is_zero(weight_decay):
        return grads
    return pytree.tree_map(lambda g, p: g + p * weight_decay, grads, params)


def zeros_like(params: PyTree, value: float = 0.0) -> PyTree:
    return pytree.tree_map(lambda leaf: LiteTensor(leaf.data.new_full(leaf.shape, value)), params)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def is_zero(value: Number) -> bool:
    """A zero that nobody can want the gradient of; a LiteTensor is kept in the formula, whatever its value."""
    return is_number(value) and value == 0


def decayed(
    params: PyTree, grads: PyTree, rates: PyTree, weight_decay: Number, decoupled: bool, maximize: bool
) -> tuple[PyTree, PyTree]:
    """(params, grads) with weight decay: (1 − α λ) θ if decoupled, else λ θ in the gradient."""
    grads = adjusted(params, grads, 0.0 if decoupled else weight_decay, maximize)
    if decoupled and not is_zero(weight_decay):
        params = pytree.tree_map(lambda p, a: p * (1 - a * weight_decay), params, rates)
    return params, grads


def check_rate(name: str, lr: Any) -> None:
    """Every number in lr is ≥ 0, and no NaN; 0 leaves the parameters as they are."""
    for rate in [lr] if is_number(lr) else pytree.leaves(lr):
        if is_number(rate) and not rate >= 0:
            raise ValueError(f"{name}: lr must be 0 or greater, got {rate}")


def check_fraction(name: str, what: str, value: Number, closed: bool = False) -> None:
    """0 ≤ value < 1, or ≤ 1 if closed; under vmap a LiteTensor has no one value to look at."""
    if is_number(value) and not (0 <= value < 1 or (closed and value == 1)):
        raise ValueError(f"{name}: expected {what} in [0, 1{']' if closed else ')'}, got {value}")


def check_not_negative(name: str, what: str, value: Number) -> None:
    if is_number(value) and not value >= 0:
        raise ValueError(f"{name}: expected {what} ≥ 0, got {value}")
