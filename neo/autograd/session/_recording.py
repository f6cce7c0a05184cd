"""What every session does with its arguments, and with the function that it runs on a tape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch

from neo import pytree
from neo.autograd._forward import ForwardTape
from neo.autograd._identity import fresh_tensors, full_gradients, returned_tree
from neo.autograd._stack import TapeContext
from neo.autograd._tape import Tape
from neo.autograd.session import _argnums
from neo.autograd.session._keys import keyed_as_given
from neo.autograd.session._mirrors import describe
from neo.autograd.tensor import LiteTensor

__all__ = [
    "Arguments",
    "as_lite_tensors",
    "close",
    "moves",
    "name_of",
    "named",
    "push_through",
    "record_through",
    "run",
]


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


def record_through(fn: Callable[[], Any], values: Sequence[LiteTensor]) -> tuple[Tape, list[LiteTensor]]:
    """fn(), recorded on a tape that watches `values`; gives the tape, closed, and fn's floating-point leaves."""
    tape = Tape()
    for value in values:
        tape.watch(value)
    TapeContext.push(tape)
    try:
        leaves = pytree.leaves(fn())
    finally:
        close(tape)
    return tape, [leaf for leaf in leaves if moves(leaf)]


def push_through(
    fn: Callable[[], Any], values: Sequence[LiteTensor], dots: Sequence[Any]
) -> tuple[list[LiteTensor], list[LiteTensor]]:
    """fn() in forward mode along `dots`, tangents of `values` (None: zero); its floating-point leaves and theirs."""
    level = ForwardTape()
    for value, dot in zip(values, dots, strict=True):
        if dot is not None:
            level.start(value, dot)
    TapeContext.push(level)
    try:
        leaves = pytree.leaves(fn())
    finally:
        close(level)
    outputs = [leaf for leaf in leaves if moves(leaf)]
    return outputs, full_gradients([level.tangent_of(output) for output in outputs], outputs)


def moves(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor) and leaf.is_floating_point()


def as_lite_tensors(gradients: Sequence[Any]) -> list[Any]:
    """What a walk gave, for a rule that works on LiteTensors; None stays None."""
    return [LiteTensor._wrap(g.detach()) if isinstance(g, torch.Tensor) else g for g in gradients]


def named(rule: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`rule`, which errors and drawings call by this name."""

    def called(*values: Any) -> Any:
        return rule(*values)

    called.__name__ = name
    return called


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
