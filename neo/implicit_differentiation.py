"""Differentiating what a solver found by the equation that it solves, through no step of the solver."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from neo import linear, pytree
from neo.autograd._stack import TapeContext, suspended
from neo.autograd._tape import record
from neo.autograd.session._recording import (
    as_lite_tensors,
    moves,
    name_of,
    named,
    push_through,
    record_through,
)
from neo.autograd.session.reverse import stop_gradient, vjp
from neo.autograd.session.transforms import jvp
from neo.autograd.tensor import LiteTensor

__all__ = ["implicit"]


def implicit(
    solve: Callable[..., Any],
    residual: Callable[..., Any],
    solver: Callable[[Callable[[Any], Any], Any], Any] | None = None,
) -> Callable[..., Any]:
    """solve, differentiated by residual(w, *args) = 0 at w = solve(*args) (the implicit function theorem).

    w̄ᵀ ∂w/∂θ = −uᵀ ∂residual/∂θ with (∂residual/∂w)ᵀ u = w̄, at every order and in both modes; θ is all that residual
    uses, its arguments and what it closes over. How solve computes is its own affair, torch, a loop or numpy: it gets
    constants.

        inner optimum     residual = lambda w, θ: neo.grad(inner_loss, argnums=0)(w, θ)
        fixed point       residual = lambda w, θ: tree_map(sub, step(w, θ), w)
        constrained       residual = lambda w, θ: tree_map(sub, project(gradient_step(w, θ)), w)

    Args:
        solve: takes pytrees of LiteTensors, returns a pytree of floating-point LiteTensors.
        residual: takes what solve returned and solve's arguments; returns a pytree like the former.
        solver: of the linear equation, neo.linear.cg() by default, which wants ∂residual/∂w symmetric and positive
            definite, as at an inner optimum; neo.linear.gmres() for any other.

    The derivative is that of an exact solution: at a w with a residual of r it is off by as much as w is.
    Raises: TypeError for what solve and residual must not return; what the solver raises.
    Cost: solve, once; a residual; and, for each backward, the products that the solver takes, each a vector-Jacobian
    product of residual. Memory does not depend on solve.
    """
    name = f"implicit({name_of(solve, 'implicit')})"
    name_of(residual, "implicit")
    linear_solver = linear.cg() if solver is None else solver

    @functools.wraps(solve)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given: Any = stop_gradient((args, kwargs))

        def solved() -> tuple[list[Any], Any]:
            leaves, spec = pytree.flatten(solve(*given[0], **given[1]), where=(name, "output"))
            _expect_tensors(name, leaves, spec)
            return [LiteTensor._wrap(leaf.data.detach()) for leaf in leaves], spec

        def left(w: Any) -> Any:
            return residual(w, *args, **kwargs)

        (leaves, spec), _ = suspended(solved)
        w = pytree.unflatten(spec, leaves)
        if TapeContext.current() is None:
            return w
        (residuals, structure), taken = suspended(lambda: pytree.flatten(left(w)))
        _expect_like(name, leaves, spec, residuals, structure)
        if not taken:
            return w

        def pull_back(*w_bars: LiteTensor) -> list[Any]:
            _, pullback = vjp(left, w)
            u = linear_solver(lambda v: pullback(v)[0], pytree.unflatten(spec, list(w_bars)))
            tape, r = record_through(lambda: left(w), taken)
            return as_lite_tensors(tape.gradients(r, [-bar for bar in pytree.leaves(u)], taken))

        def push(*dots: LiteTensor | None) -> list[Any]:
            _, moved = push_through(lambda: left(w), taken, dots)
            right = pytree.unflatten(spec, [-dot for dot in moved])
            return list(pytree.leaves(linear_solver(lambda v: jvp(left, (w,), (v,))[1], right)))

        record(leaves, taken, named(pull_back, name), named(push, name))
        return w

    return wrapped


def _expect_tensors(name: str, leaves: list[Any], spec: Any) -> None:
    for i, leaf in enumerate(leaves):
        if not moves(leaf):
            raise TypeError(
                f"{name}: expected solve to return floating-point LiteTensors, got {type(leaf).__name__} at "
                f"{pytree.place(spec, i, (name, 'output'))}"
            )
    if not leaves:
        raise TypeError(f"{name}: expected solve to return LiteTensors, got an empty tree")


def _expect_like(name: str, leaves: list[Any], spec: Any, residuals: list[Any], structure: Any) -> None:
    shapes = [getattr(leaf, "shape", None) for leaf in residuals]
    if structure != spec or shapes != [leaf.shape for leaf in leaves]:
        raise TypeError(
            f"{name}: expected residual to return what solve does, {spec} of shapes "
            f"{[tuple(leaf.shape) for leaf in leaves]}, got {structure} of shapes "
            f"{[shape if shape is None else tuple(shape) for shape in shapes]}"
        )
