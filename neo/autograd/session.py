"""Sessions: a session owns a tape, runs a function on fresh handles of its arguments, walks the tape back, drops it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch

from neo.autograd._tape import Tape, TapeContext, fresh_handles, full_gradients, handed_back_tree
from neo.tensor import LiteTensor

__all__ = ["grad", "stop_gradient", "value_and_grad", "vjp"]

ArgNums = int | Sequence[int] | None


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
            An int: the gradients mirror that argument; several ints: a tuple of such mirrors. Constants in
            a mirrored argument (numbers, torch tensors, integer-free arrays) have None in their place.
        has_aux: fn returns (output, aux); the result is ((output, aux), gradients).
        cotangent: what to pull back, in the structure and shapes of fn's output; ones by default, so that the
            gradient is that of the sum of all entries.

    Returns: wrapped(*args, **kwargs) -> (fn(*args, **kwargs), gradients). Keyword arguments are constants. Gradients
    are LiteTensors in the shape, dtype and device of what they belong to; zeros where fn does not depend on it.

    Inside fn each differentiated argument is a fresh handle, so that a closed-over use of the same one is a constant.
    Sessions nest: the gradients are themselves differentiable by any session that is open around this call.

    Raises: TypeError when there is nothing to differentiate, argnums names an integer tensor, or fn returns something
    other than floating-point LiteTensors; ValueError for a cotangent of another structure or shape.
    Cost: fn once, plus one backward per recorded op; memory for what the Policies save, freed as the walk passes it.
    """
    name = name_of(fn)

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        tape = Tape()  # before the handles that it watches, which it then finds by index
        slots = Arguments(args, argnums, name)
        out, outputs = run(tape, fn, slots, kwargs, has_aux, name)
        cotangents = _cotangents(outputs, out[0] if has_aux else out, cotangent, name)
        gradients = tape.gradients(outputs, cotangents, slots.fresh)
        return out, slots.pack(gradients)

    return wrapped


def grad(
    fn: Callable[..., Any], argnums: ArgNums = None, has_aux: bool = False, cotangent: Any = None
) -> Callable[..., Any]:
    """Like value_and_grad, giving the gradients alone; (gradients, aux) with has_aux."""
    both = value_and_grad(fn, argnums, has_aux, cotangent)

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        out, gradients = both(*args, **kwargs)
        return (gradients, out[1]) if has_aux else gradients

    return wrapped


def vjp(fn: Callable[..., Any], *args: Any) -> tuple[Any, Callable[[Any], Any]]:
    """fn(*args), and its pullback: cotangent of the output -> a tuple with a gradient for each argument.

    The gradients mirror the arguments (None for constants). The pullback may be called any number of times; what the
    tape holds goes free when the pullback does.
    """
    name = name_of(fn)
    tape = Tape()
    slots = Arguments(args, range(len(args)), name, integers="constant")
    out, outputs = run(tape, fn, slots, {}, False, name)

    def pullback(cotangent: Any) -> Any:
        if cotangent is None:
            raise TypeError(
                f"pullback of {name}: expected a cotangent in the structure of the output, got None"
            )
        cotangents = _cotangents(outputs, out, cotangent, name)
        return slots.pack(tape.gradients(outputs, cotangents, slots.fresh, keep=True))

    return out, pullback


def stop_gradient(tree: Any) -> Any:
    """The same values as constants: the identity, whose gradient is zero at every order, for a pytree of tensors."""
    return optree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, LiteTensor) else leaf, tree)


class Arguments:
    """The positional arguments of one call: which leaves are differentiated, and how gradients are handed back."""

    def __init__(self, args: tuple[Any, ...], argnums: ArgNums, name: str, integers: str = "refuse"):
        self.single = isinstance(argnums, int)
        self.keyed = argnums is None
        chosen = _positions(argnums, len(args), name)
        self.fresh: list[LiteTensor] = []  # what fn gets in place of `leaves`
        self.leaves: list[LiteTensor] = []
        # Of each chosen argument its structure and, for each leaf, the index in `fresh`, or -1 for a constant.
        self.mirrors: list[tuple[optree.PyTreeSpec, list[int]]] = []
        new_args = list(args)
        for position in chosen:
            leaves, spec = _flatten(args[position])
            places = fresh_handles(leaves, self.leaves, self.fresh)
            if integers == "refuse" and not self.keyed and -1 in places:
                _refuse_integers(leaves, places, args[position], f"{name}: argument {position}")
            new_args[position] = _unflatten(spec, leaves)
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
        full = full_gradients(gradients, self.leaves)
        if self.keyed:
            keyed: dict[LiteTensor, LiteTensor] = {}
            for leaf, gradient in zip(self.leaves, full, strict=True):
                keyed[leaf] = keyed[leaf] + gradient if leaf in keyed else gradient
            return keyed
        mirrored = tuple(
            _unflatten(spec, [full[place] if place >= 0 else None for place in places])
            for spec, places in self.mirrors
        )
        return mirrored[0] if self.single else mirrored


def run(
    tape: Tape, fn: Callable[..., Any], slots: Arguments, kwargs: dict[str, Any], has_aux: bool, name: str
) -> tuple[Any, list[LiteTensor]]:
    """fn's value and its leaves, recorded on `tape`, which is closed again whatever happens (rule 9)."""
    for handle in slots.fresh:
        tape.watch(handle)
    TapeContext.push(tape)
    try:
        out = fn(*slots.args, **kwargs)
    finally:
        close(tape)
    if has_aux and not (isinstance(out, tuple) and len(out) == 2):
        raise TypeError(f"{name}: has_aux=True expects fn to return (output, aux), got {describe(out)}")
    outputs, _ = _flatten(out[0] if has_aux else out)
    if not outputs or not all(isinstance(leaf, LiteTensor) for leaf in outputs):
        raise TypeError(
            f"{name}: expected fn to return a LiteTensor or a pytree of them, got {describe(out)}. "
            f"Return what else you need as aux, with has_aux=True."
        )
    for leaf in outputs:
        if not leaf.is_floating_point():
            raise TypeError(
                f"{name}: the output is {leaf.dtype}, without a gradient; return a floating-point one"
            )
    return handed_back_tree(out, optree.tree_map), outputs


def close(tape: Tape) -> None:
    """Close `tape`, and any tape that fn pushed by hand and left open above it."""
    while TapeContext.pop() is not tape:
        pass


def _cotangents(outputs: list[LiteTensor], out: Any, cotangent: Any, name: str) -> list[Any]:
    if cotangent is None:
        return [torch.ones_like(output.data) for output in outputs]
    given = optree.tree_leaves(cotangent)
    if len(given) != len(outputs):
        raise ValueError(
            f"{name}: the cotangent has {len(given)} leaves, expected {len(outputs)}, one for each tensor of the output"
        )
    result = []
    for value, output in zip(given, outputs, strict=True):
        if not isinstance(value, LiteTensor | torch.Tensor):
            value = LiteTensor(value, dtype=output.dtype, device=output.device)
        if value.shape != output.shape or value.dtype != output.dtype:
            raise ValueError(
                f"{name}: a cotangent has shape {tuple(value.shape)} and dtype {value.dtype}, expected "
                f"{tuple(output.shape)} and {output.dtype}, those of the output"
            )
        result.append(value.detach() if isinstance(value, torch.Tensor) else value)
    return result


_LEAF: optree.PyTreeSpec = optree.treespec_leaf()


def _flatten(tree: Any) -> tuple[list[Any], optree.PyTreeSpec]:
    """optree's; what is one tensor needs no asking."""
    return ([tree], _LEAF) if isinstance(tree, LiteTensor) else optree.tree_flatten(tree)


def _unflatten(spec: optree.PyTreeSpec, leaves: list[Any]) -> Any:
    return leaves[0] if spec is _LEAF else optree.tree_unflatten(spec, leaves)


def _refuse_integers(leaves: list[Any], places: list[int], argument: Any, where: str) -> None:
    for i, (leaf, place) in enumerate(zip(leaves, places, strict=True)):
        if place < 0 and isinstance(leaf, LiteTensor):
            path = "".join(f"[{key!r}]" for key in optree.tree_paths(argument)[i])
            raise TypeError(
                f"{where}{path} is {leaf.dtype}, shape {tuple(leaf.shape)}; a gradient needs a "
                f"floating-point LiteTensor. Cast it with .to(torch.float32), or leave it out of argnums."
            )


def _positions(argnums: ArgNums, count: int, name: str) -> list[int]:
    """argnums as positions from 0 on, each once."""
    given = range(count) if argnums is None else [argnums] if isinstance(argnums, int) else argnums
    for position in given:
        if not -count <= position < count:
            raise TypeError(f"{name}: argnums names argument {position}, but {count} were given")
    positions = [position % count for position in given]
    if len(set(positions)) < len(positions):
        raise ValueError(f"{name}: argnums names an argument twice: {tuple(given)}")
    return positions


def name_of(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def describe(value: Any) -> str:
    if isinstance(value, LiteTensor | torch.Tensor):
        return f"{type(value).__name__} of {value.dtype}, shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of ({', '.join(describe(item) for item in value[:4])})"
    return type(value).__name__


def __getattr__(name: str) -> Any:
    """session.hvp and the others built from sessions live in files of their own; found here too."""
    from neo.autograd import batching, check, transforms

    for module in (transforms, batching, check):
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
