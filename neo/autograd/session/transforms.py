"""What is built from sessions: forward products and Hessian products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from neo import pytree
from neo.autograd._forward import ForwardTape, NoTangentRule
from neo.autograd._forward import tangents as push_tangents
from neo.autograd._identity import full_gradients
from neo.autograd._tape import Tape
from neo.autograd.session import _mirrors
from neo.autograd.session._recording import Arguments, name_of, run
from neo.autograd.session._replay import Replay
from neo.autograd.session.reverse import vjp

__all__ = ["hvp", "jvp", "linearize"]


def jvp(fn: Callable[..., Any], args: tuple, tangents: tuple, has_aux: bool = False) -> Any:
    """fn(*args), and its derivative along `tangents` (a tuple that mirrors args; None for constants).

    (out, tangent), or (out, tangent, aux) with has_aux, where fn returns (output, aux).

    Every op pushes its tangents on as it runs: by its Policy's own `jvp`, or, where it has none, by its backward:
    v ↦ Jᵀ v is linear, and its own pullback is t ↦ J t (Townsend 2017, "A new trick for calculating Jacobian vector
    products").
    Nests with sessions and with itself, at any order; jvp of a gradient is forward over reverse.

    Raises: TypeError for no two tuples of one length; ValueError for a tangent that does not match its argument.
    Cost: two to three times fn, and a tangent beside each of fn's tensors as long as it is alive; nothing is recorded.
    """
    _mirrors.expect_tuples("jvp", args, tangents)
    name = name_of(fn, "jvp")
    dots = _mirrors.tangents("jvp", args, tangents)
    slots = Arguments(args, tuple(range(len(args))), name, integers="constant")
    level = ForwardTape()
    for tensor, dot in zip(slots.fresh, dots, strict=True):
        level.start(tensor, dot)
    out, outputs = run(level, fn, slots, {}, has_aux, name)
    aux: Any
    out, aux = out if has_aux else (out, None)
    moved = full_gradients([level.tangent_of(output) for output in outputs], outputs)
    tangent = pytree.unflatten(pytree.structure(out), moved)
    return (out, tangent, aux) if has_aux else (out, tangent)


def linearize(fn: Callable[..., Any], *args: Any, has_aux: bool = False) -> Any:
    """fn(*args), and its linear approximation there: push(*tangents) -> the derivative along them.

    (out, push), or (out, push, aux) with has_aux. push takes a tangent for each argument, in its structure (None for
    constants), any number of times; fn runs once, now. push is linear in the tangents, and sessions around it
    differentiate it in them, and in the arguments where they were open when fn ran.

    Raises: TypeError for another number of tangents; ValueError for one that does not match its argument.
    Cost: fn; each push about twice fn, less where Policies have a jvp. fn's intermediates are kept while push is.
    """
    recording = _Recording(fn, name_of(fn, "linearize"), args, has_aux)

    def push(*tangents: Any) -> Any:
        if len(tangents) != len(args):
            raise TypeError(
                f"linearize: {recording.name} was given {len(args)} arguments, and push {len(tangents)} tangents; give "
                f"one for each argument, None for a constant"
            )
        return recording.push(_mirrors.tangents("linearize", args, tangents))

    return (recording.out, push, recording.aux) if has_aux else (recording.out, push)


def hvp(fn: Callable[..., Any], args: Any, vectors: Any, has_aux: bool = False) -> Any:
    """Hessian-vector product H v of the sum of fn's outputs, in the structure of `vectors`; (H v, aux) with has_aux.

    args, vectors: tuples that mirror each other, or one argument and its vector. H is never formed: forward over
    reverse, in about two and a half gradients and twice the memory of one, where every op has a tangent rule of its
    own, as Neo's have. Where one has none (a Policy without jvp) fn is run anew, for reverse over reverse: the pullback
    of the gradient at v, which is H v since H is symmetric.
    """
    name_of(fn, "hvp")
    single = not isinstance(args, tuple)
    if single:
        args, vectors = (args,), (vectors,)
    _mirrors.expect_tuples("hvp", args, vectors)

    def gradient(*primals: Any) -> Any:
        aux: list[Any]
        out, pullback, *aux = vjp(fn, *primals, has_aux=has_aux)
        pulled = pullback(pytree.tree_map(lambda leaf: torch.ones_like(leaf.data), out))
        return (pulled, *aux) if has_aux else pulled

    aux: list[Any]
    slots = Arguments(args, tuple(range(len(args))), "hvp", integers="constant")
    dots = _mirrors.tangents("hvp", args, vectors, "vector")  # as many as the gradient has tensors
    draws = Replay("hvp")
    try:
        product, *aux = _forward_over_reverse(gradient, slots, dots, has_aux)
    except NoTangentRule:
        with draws.repeated():
            first, pullback, *aux = vjp(gradient, *args, has_aux=has_aux)
        product = pullback(pytree.unflatten(pytree.structure(first), dots))
    if single:
        (product,) = product
    return (product, *aux) if has_aux else product


def _forward_over_reverse(
    gradient: Callable[..., Any], slots: Arguments, dots: list[Any], has_aux: bool
) -> list[Any]:
    """[the gradient's derivative along dots], and aux. Raises: NoTangentRule where an op has none of its own."""
    level = ForwardTape()
    level.own_rules = True
    for tensor, dot in zip(slots.fresh, dots, strict=True):
        level.start(tensor, dot)
    out, outputs = run(level, gradient, slots, {}, has_aux, "hvp")
    found, *aux = out if has_aux else (out,)
    moved = full_gradients([level.tangent_of(output) for output in outputs], outputs)
    return [pytree.unflatten(pytree.structure(found), moved), *aux]


class _Recording:
    """fn, run once on a tape that tangents are pushed through."""

    def __init__(self, fn: Callable[..., Any], name: str, args: tuple, has_aux: bool):
        self.name = name
        self.tape = Tape(keep_tensors=True)
        self.slots = Arguments(args, tuple(range(len(args))), self.name, integers="constant")
        out, self.outputs = run(self.tape, fn, self.slots, {}, has_aux, self.name)
        self.aux: Any
        self.out, self.aux = out if has_aux else (out, None)
        self.spec = pytree.structure(self.out)

    def push(self, dots: list[Any]) -> Any:
        moved = push_tangents(self.tape, self.slots.fresh, dots, self.outputs)
        return pytree.unflatten(self.spec, full_gradients(moved, self.outputs))
