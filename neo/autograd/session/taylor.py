"""Taylor mode: derivatives of any order along a curve, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from neo import pytree
from neo.autograd._identity import fresh_tensors, full_gradients
from neo.autograd._taylor import TaylorTape
from neo.autograd.session import _mirrors
from neo.autograd.session._recording import Arguments, name_of, run
from neo.autograd.tensor import LiteTensor

__all__ = ["jet"]


def jet(fn: Callable[..., Any], primals: tuple, series: tuple) -> tuple[Any, list[Any]]:
    """fn(*primals), and its derivatives along a curve through primals: (out, [first, second, ...]).

    The curve x(t) goes through primals at t = 0, and `series` has its derivatives there; what comes back are those of
    fn(x(t)), in the convention of jax.experimental.jet: the derivatives themselves, not divided by k!. Along a straight
    line, series ((v, None, None),), they are the directional derivatives of fn of first, second and third order:

        u, (u_x, u_xx, u_xxx) = neo.jet(solution, (x,), ((torch.ones_like(x.data), None, None),))

    Args:
        fn: of LiteTensors, or pytrees of them, to such.
        primals: its arguments, a tuple.
        series: for each argument its first to K-th derivative, a sequence of K trees that mirror it, with None for
            zero, be it a tree or a leaf. K, at least 1, is the same for all; None in place of a sequence for an
            argument that is constant.
    Returns: fn's output, and a list of K trees in its structure.

    Nests with sessions and with itself: sessions inside fn, and around this, differentiate as ever.

    Raises: TypeError for no two tuples of one length and for a series that is no sequence; ValueError for series of
        different lengths, or that do not mirror their argument.
    Cost: each op's rule for tangents runs on tangents, order by order, so that a linear op costs K times its own, and a
        product 2^K, where a jvp in a jvp, K deep, costs 2^K and 3^K; derivatives are kept beside each of fn's tensors
        as long as it is alive, and nothing is recorded. Every op that `neo.jvp` takes serves, at any order.
        Griewank and Walther 2008, Evaluating Derivatives, chapter 13; Bettencourt, Johnson and Duvenaud 2019.
    """
    _mirrors.expect_tuples("jet", primals, series)
    name = name_of(fn, "jet")
    order = _order(series)
    terms = [_mirrored(primals, [None if s is None else s[k] for s in series]) for k in range(order)]
    slots = Arguments(primals, tuple(range(len(primals))), name, integers="constant")
    level = TaylorTape()
    level.order = order
    for i, tensor in enumerate(slots.fresh):
        level.begin(tensor, _curve(tensor, [term[i] for term in terms]))
    out, outputs = run(level, fn, slots, {}, False, name)
    found = [level.series_of(output) for output in outputs]
    spec = pytree.structure(out)
    derivatives = [
        pytree.unflatten(spec, full_gradients([each[k] for each in found], outputs)) for k in range(order)
    ]
    return out, derivatives


def _order(series: tuple) -> int:
    """How many derivatives there are of each argument."""
    for i, given in enumerate(series):
        if given is not None and not isinstance(given, list | tuple):
            raise TypeError(
                f"jet: the series of argument {i} must be a sequence of its first, second, ... derivatives, got "
                f"{_mirrors.describe(given)}. Of one argument: jet(fn, (x,), ((v, None),))"
            )
    lengths = {i: len(given) for i, given in enumerate(series) if given is not None}
    if not lengths or 0 in lengths.values() or len(set(lengths.values())) > 1:
        counted = ", ".join(f"{count} of argument {i}" for i, count in lengths.items()) or "none"
        raise ValueError(
            f"jet: expected as many derivatives of each argument, at least one, got {counted}; fill up with None, for "
            f"zero"
        )
    return next(iter(lengths.values()))


def _mirrored(primals: tuple, given: Sequence[Any]) -> list[Any]:
    """One order's derivatives: one for each floating-point LiteTensor in primals, None for zero."""
    found: list[Any] = []
    for i, (primal, tree) in enumerate(zip(primals, given, strict=True)):
        found += _mirrors.tangents_or_zero("jet", i, primal, tree, "derivative")
    return found


def _curve(leaf: LiteTensor, terms: list[Any]) -> list[Any]:
    """A leaf's derivatives, without the zeros at the end, as tensors of this call alone: fn may hold the given ones."""
    while terms and terms[-1] is None:
        terms = terms[:-1]
    filled: list[Any] = [torch.zeros_like(leaf.data) if term is None else term for term in terms]
    filled = [term if isinstance(term, LiteTensor) else LiteTensor._wrap(term) for term in filled]
    fresh_tensors(filled, [], [])
    return filled
