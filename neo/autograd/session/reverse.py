"""Reverse mode: a session owns a tape, runs a function on fresh tensors, walks the tape back, drops it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from neo import pytree
from neo.autograd._batched import ones_like
from neo.autograd._identity import rule_on_torch_tensors
from neo.autograd._stack import TapeContext
from neo.autograd._tape import Tape
from neo.autograd.session import _argnums, _mirrors
from neo.autograd.session._argnums import ArgNums
from neo.autograd.session._recording import Arguments, name_of, run
from neo.autograd.session.mixed import MixedGradient
from neo.autograd.tensor import LiteTensor

__all__ = ["grad", "stop_gradient", "value_and_grad", "vjp"]


def value_and_grad(
    fn: Callable[..., Any],
    argnums: ArgNums = None,
    has_aux: bool = False,
    cotangent: Any = None,
    mode: str = "reverse",
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
        mode: how a session around differentiates the gradient. "reverse": it records the backward pass, and walks back
            through it. "mixed": it records nothing of fn and its backward pass, and computes both anew, forward over
            reverse, when it walks back (Kemaev et al. 2025, arXiv:2505.00793): the same numbers, in the memory of a
            gradient. Without a session around the two are one.

    Returns: wrapped(*args, **kwargs) -> (fn(*args, **kwargs), gradients). Keyword arguments are constants. Gradients
    are LiteTensors in the shape, dtype and device of what they belong to; zeros where fn does not depend on it.

    Inside fn each differentiated argument is a fresh tensor on the same data, so that a closed-over use of the old one
    is a constant.
    Sessions nest: the gradients are themselves differentiable by any session that is open around this call.
    Where such a dict is the output of a session or vmap around, its keys are what was passed there.

    Raises: TypeError when there is nothing to differentiate, argnums names an integer tensor, or fn returns something
    other than floating-point LiteTensors; ValueError for a cotangent of another structure or shape, and another mode;
    SavedTensorError, in mixed mode, where fn gives other values when it is run again.
    Cost: fn once, plus one backward per recorded op; memory for what the Policies save, freed as the walk passes it. In
    mixed mode a session around pays a gradient and its tangents, about three times as much, as it walks back, and
    holds the arguments and the gradients meanwhile.
    """
    name = name_of(fn, "value_and_grad")
    chosen = _argnums.checked(argnums, name)
    if mode not in ("reverse", "mixed"):
        raise ValueError(f'value_and_grad: mode must be "reverse" or "mixed", got {mode!r}')

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if mode == "mixed" and TapeContext.current() is not None and not rule_on_torch_tensors():
            return MixedGradient(fn, args, kwargs, chosen, has_aux, cotangent, name).run()
        tape = Tape()  # before the tensors that it watches, which it then finds by index
        slots = Arguments(args, chosen, name)
        out, outputs = run(tape, fn, slots, kwargs, has_aux, name)
        if cotangent is None:
            cotangents = [ones_like(output.data) for output in outputs]
        else:
            spec = pytree.structure(out[0] if has_aux else out)
            cotangents = _mirrors.cotangents(name, outputs, spec, cotangent)
        gradients = tape.gradients(outputs, cotangents, slots.fresh)
        return out, slots.pack(gradients)

    return wrapped


def grad(
    fn: Callable[..., Any],
    argnums: ArgNums = None,
    has_aux: bool = False,
    cotangent: Any = None,
    mode: str = "reverse",
) -> Callable[..., Any]:
    """Like value_and_grad, giving the gradients alone; (gradients, aux) with has_aux."""
    name_of(fn, "grad")
    both = value_and_grad(fn, argnums, has_aux, cotangent, mode)

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
