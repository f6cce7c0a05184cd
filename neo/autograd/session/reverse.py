"""Reverse mode: a session owns a tape, runs a function on fresh tensors, walks the tape back, drops it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optree
import torch

from neo import pytree
from neo.autograd._identity import fresh_tensors, full_gradients, returned_tree
from neo.autograd._stack import TapeContext
from neo.autograd._tape import Tape
from neo.autograd.session import _argnums, _mirrors
from neo.autograd.session._argnums import ArgNums
from neo.autograd.session._keys import keyed_as_given
from neo.autograd.session._mirrors import describe
from neo.autograd.tensor import LiteTensor

__all__ = ["grad", "stop_gradient", "value_and_grad", "vjp"]


def value_and_grad(
    fn: Callable[..., Any],
    argnums: ArgNums = None,
    has_aux: bool = False,
    cotangent: Any = None,
) -> Callable[..., tuple[Any, Any]]:
    """A function that gives fn's value and its gradients.

    Args:
        fn: takes LiteTensors in any pytree, returns a LiteTensor or a pytree of them.
        argnums: which positional arguments to differentiate. None: every floating-point LiteTensor in any of them,
            and the gradients come as a dict {tensor: gradient} in argument order; a tensor passed twice has the sum.
            An int: the gradients mirror that argument; a tuple of ints: a tuple of such mirrors. Constants in
            a mirrored argument (numbers, torch tensors, arrays) have None in their place.
        has_aux: fn returns (output, aux); the result is ((output, aux), gradients).
        cotangent: what to pull back, in the structure and shapes of fn's output; ones by default, so that the
            gradient is that of the sum of all entries.

    Returns: wrapped(*args, **kwargs) -> (fn(*args, **kwargs), gradients). Keyword arguments are constants. Gradients
    are LiteTensors in the shape, dtype and device of what they belong to; zeros where fn does not depend on it.

    Inside fn each differentiated argument is a fresh tensor on the same data, so that a closed-over use of the old one
    is a constant.
    Sessions nest: the gradients are themselves differentiable by any session that is open around this call.
    Where such a dict is the output of a session or vmap around, its keys are what was passed there.

    Raises: TypeError when there is nothing to differentiate, argnums names an integer tensor, or fn returns something
    other than floating-point LiteTensors; ValueError for a cotangent of another structure or shape.
    Cost: fn once, plus one backward per recorded op; memory for what the Policies save, freed as the walk passes it.
    """
    name = name_of(fn, "value_and_grad")
    chosen = _argnums.checked(argnums, name)

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        tape = Tape()  # before the tensors that it watches, which it then finds by index
        slots = Arguments(args, chosen, name)
        out, outputs = run(tape, fn, slots, kwargs, has_aux, name)
        if cotangent is None:
            cotangents = [torch.ones_like(output.data) for output in outputs]
        else:
            spec = pytree.structure(out[0] if has_aux else out)
            cotangents = _mirrors.cotangents(name, outputs, spec, cotangent)
        gradients = tape.gradients(outputs, cotangents, slots.fresh)
        return out, slots.pack(gradients)

    return wrapped


def grad(
    fn: Callable[..., Any], argnums: ArgNums = None, has_aux: bool = False, cotangent: Any = None
) -> Callable[..., Any]:
    """Like value_and_grad, giving the gradients alone; (gradients, aux) with has_aux."""
    name_of(fn, "grad")
    both = value_and_grad(fn, argnums, has_aux, cotangent)

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        out, gradients = both(*args, **kwargs)
        return (gradients, out[1]) if has_aux else gradients

    return wrapped


def vjp(fn: Callable[..., Any], *args: Any, has_aux: bool = False) -> Any:
    """fn(*args), and its pullback: cotangent of the output -> a tuple with a gradient for each argument.

    (out, pullback), or (out, pullback, aux) with has_aux, where fn returns (output, aux). The gradients mirror the
    arguments (None for constants); the cotangent must mirror the output. The pullback may be called any number of
    times; what the tape holds goes free when the pullback does.
    """
    name = name_of(fn, "vjp")
    tape = Tape()
    slots = Arguments(args, tuple(range(len(args))), name, integers="constant")
    out, outputs = run(tape, fn, slots, {}, has_aux, name)
    out, aux = out if has_aux else (out, None)
    spec = pytree.structure(out)

    def pullback(cotangent: Any, *more: Any) -> Any:
        if more:
            raise TypeError(
                f"pullback of {name}: expected one cotangent, in the structure of the output {_mirrors.plain(spec)}, "
                f"got {1 + len(more)} arguments; pass one tree of that structure"
            )
        if cotangent is None:
            raise TypeError(
                f"pullback of {name}: expected a cotangent in the structure of the output, got None"
            )
        cotangents = _mirrors.cotangents(f"pullback of {name}", outputs, spec, cotangent)
        return slots.pack(tape.gradients(outputs, cotangents, slots.fresh, keep=True))

    return (out, pullback, aux) if has_aux else (out, pullback)


def stop_gradient(tree: Any) -> Any:
    """The same values as constants: the identity, whose gradient is zero at every order, for a pytree of tensors."""
    return pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, LiteTensor) else leaf, tree)


class Arguments:
    """The positional arguments of one call: which leaves are differentiated, and how gradients are handed back."""

    def __init__(
        self,
        args: tuple[Any, ...],
        argnums: int | tuple[int, ...] | None,  # as _argnums.checked gives them
        name: str,
        integers: str = "refuse",
    ):
        self.single = isinstance(argnums, int)
        self.keyed = argnums is None
        chosen = _argnums.positions(argnums, len(args), name)
        self.fresh: list[LiteTensor] = []  # what fn gets in place of `leaves`
        self.leaves: list[LiteTensor] = []
        # Of each chosen argument its structure and, for each leaf, the index in `fresh`, or -1 for a constant.
        self.mirrors: list[tuple[optree.PyTreeSpec, list[int]]] = []
        new_args = list(args)
        for position in chosen:
            leaves, spec = pytree.flatten(args[position], where=(name, position))
            places = fresh_tensors(leaves, self.leaves, self.fresh)
            if integers == "refuse" and not self.keyed and -1 in places:
                _refuse_integers(leaves, places, spec, (name, position))
            new_args[position] = pytree.unflatten(spec, leaves)
            self.mirrors.append((spec, places))
        if not self.fresh:
            kinds = ", ".join(describe(args[position]) for position in chosen) or "no arguments"
            raise TypeError(
                f"{name}: nothing to differentiate; expected a floating-point LiteTensor among the "
                f"{'positional arguments' if self.keyed else 'arguments that argnums names'}, got {kinds}. "
                f"torch tensors, arrays and numbers are constants: wrap them in neo.LiteTensor(...)."
            )
        self.args = tuple(new_args)

    def pack(self, gradients: list[Any]) -> Any:
        """What a walk gave, as the user gets it; zeros for None."""
        return self.mirrored(full_gradients(gradients, self.leaves))

    def mirrored(self, full: list[Any]) -> Any:
        """Something for each of `leaves`, in the structure that argnums asks for."""
        if self.keyed:
            keyed: dict[LiteTensor, LiteTensor] = {}
            for leaf, gradient in zip(self.leaves, full, strict=True):
                keyed[leaf] = keyed[leaf] + gradient if leaf in keyed else gradient
            return keyed
        mirrored = [
            pytree.unflatten(spec, [full[place] if place >= 0 else None for place in places])
            for spec, places in self.mirrors
        ]
        return mirrored[0] if self.single else tuple(mirrored)


def run(
    tape: Tape, fn: Callable[..., Any], slots: Arguments, kwargs: dict[str, Any], has_aux: bool, name: str
) -> tuple[Any, list[LiteTensor]]:
    """fn's value and its leaves, recorded on `tape`, which is closed again whatever happens (rule 9)."""
    for tensor in slots.fresh:
        tape.watch(tensor)
    TapeContext.push(tape)
    try:
        out = fn(*slots.args, **kwargs)
    finally:
        close(tape)
    if has_aux and not (isinstance(out, tuple) and len(out) == 2):
        raise TypeError(f"{name}: has_aux=True expects fn to return (output, aux), got {describe(out)}")
    out = keyed_as_given(out, slots.fresh, slots.leaves)
    outputs, spec = pytree.flatten(out[0] if has_aux else out)
    for i, leaf in enumerate(outputs):
        if not isinstance(leaf, LiteTensor):
            inside = f" with {type(leaf).__name__} {leaf!r} at {spec.accessors()[i].codify('')}"
            raise TypeError(
                f"{name}: expected fn to return a LiteTensor or a pytree of them, got {describe(out)}"
                f"{inside if len(outputs) > 1 else ''}. Return what else you need as aux, with has_aux=True."
            )
    if not outputs:
        raise TypeError(
            f"{name}: expected fn to return a LiteTensor or a pytree of them, got {describe(out)}"
        )
    for i, leaf in enumerate(outputs):
        if not leaf.is_floating_point():
            raise TypeError(
                f"{name}: the output{spec.accessors()[i].codify('')} is {leaf.dtype}, without a gradient; return a "
                f"floating-point one, and what needs no gradient as aux, with has_aux=True"
            )
    return returned_tree(out, pytree.tree_map), outputs


def close(tape: Tape) -> None:
    """Close `tape`, and any tape that fn pushed by hand and left open above it."""
    while TapeContext.pop() is not tape:
        pass


def _refuse_integers(
    leaves: list[Any], places: list[int], spec: optree.PyTreeSpec, where: tuple[str, int]
) -> None:
    for i, (leaf, place) in enumerate(zip(leaves, places, strict=True)):
        if place < 0 and isinstance(leaf, LiteTensor):
            raise TypeError(
                f"{pytree.place(spec, i, where)} is {leaf.dtype}, shape {tuple(leaf.shape)}; a gradient needs a "
                f"floating-point LiteTensor. Cast it with .to(torch.float32), or leave it out of argnums."
            )


def name_of(fn: Callable[..., Any], transform: str) -> str:
    """The name of fn in errors. Raises: TypeError where fn is none that `transform` could call."""
    if not callable(fn):
        raise TypeError(
            f"{transform}: expected a function, got {describe(fn)}; pass the function itself, as in "
            f"neo.grad(loss)(params), and not what it returns"
        )
    return getattr(fn, "__name__", type(fn).__name__)
