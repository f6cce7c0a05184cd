"""Jacobians and Hessians of functions of pytrees, by backward passes or by forward ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from neo import pytree
from neo.autograd._forward import tangents
from neo.autograd._identity import full_gradients, returned_tree
from neo.autograd._tape import Tape
from neo.autograd.session import _argnums
from neo.autograd.session._argnums import ArgNums
from neo.autograd.session._recording import Arguments, name_of, run
from neo.autograd.tensor import LiteTensor

__all__ = ["hessian", "jacobian"]


def jacobian(
    fn: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False, mode: str = "reverse"
) -> Callable[..., Any]:
    """A function that gives ∂fn/∂x for every tensor of fn's output and every tensor of the arguments named by argnums.

    One tensor in and one out: of shape out.shape + x.shape. Pytrees: a tree like the output, with a tree like the
    argument in place of each tensor (a tuple of trees for several argnums; a dict {tensor: ...} for None), as
    jax.jacobian and torch.func.jacrev have it; None in place of constants. (jacobian, aux) with has_aux.

    mode: "reverse" runs one backward for each entry of the output, "forward" one push for each entry of the
        arguments; the same numbers. Choose by which are fewer.
    Raises: what value_and_grad raises; ValueError for another mode.
    Cost: fn once, and the above. Differentiable at every order: jacobian(jacobian(f)), in any modes, is right.
    """
    return _jacobian("jacobian", fn, argnums, has_aux, mode)


def _jacobian(
    transform: str, fn: Callable[..., Any], argnums: ArgNums, has_aux: bool, mode: str
) -> Callable[..., Any]:
    """jacobian, which errors call by the name of the transform that the user called."""
    if mode not in ("reverse", "forward"):
        raise ValueError(f'{transform}: mode must be "reverse" or "forward", got {mode!r}')
    name = f"{transform}({name_of(fn, transform)})"
    chosen = _argnums.checked(argnums, name)

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        forward = mode == "forward"
        tape = Tape(keep_tensors=forward)
        slots = Arguments(args, chosen, name)
        out, outputs = run(tape, fn, slots, kwargs, has_aux, name)
        out, aux = out if has_aux else (out, None)
        blocks = (_by_columns if forward else _by_rows)(tape, slots.fresh, outputs)
        found = pytree.unflatten(pytree.structure(out), [slots.mirrored(row) for row in blocks])
        return (found, aux) if has_aux else found

    return wrapped


def hessian(
    fn: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False, mode: str = "reverse"
) -> Callable[..., Any]:
    """A function that gives ∂²fn/∂x², of shape x.shape + x.shape for a scalar fn (out.shape in front for any other).

    Pytrees: nested as jacobian(jacobian(fn)) has them, a tree like the output of trees like the argument of trees like
    the argument. (hessian, aux) with has_aux. mode: of the outer Jacobian; the inner one is "reverse".

    Cost: one gradient and, per entry of x, one backward (or push) through it; use hvp where a product is enough.
    """
    gradient = _jacobian("hessian", fn, argnums, has_aux, "reverse")
    return _jacobian("hessian", gradient, argnums, has_aux, mode)


def _by_rows(tape: Tape, inputs: list[LiteTensor], outputs: list[LiteTensor]) -> list[list[Any]]:
    """Of each output, its derivative with respect to each input: one backward per entry of the output."""
    blocks = []
    for out in outputs:
        rows = [
            full_gradients(tape.gradients([out], [unit], inputs, keep=True), inputs) for unit in _units(out)
        ]
        blocks.append(
            [_stacked([row[i] for row in rows], out, x, x.dtype, "rows") for i, x in enumerate(inputs)]
        )
    return blocks


def _by_columns(tape: Tape, inputs: list[LiteTensor], outputs: list[LiteTensor]) -> list[list[Any]]:
    """The same: one push per entry of the inputs."""
    columns = [
        [full_gradients(tangents(tape, [x], [unit], outputs), outputs) for unit in _units(x)] for x in inputs
    ]
    return [
        [
            _stacked([column[j] for column in columns[i]], out, x, out.dtype, "columns")
            for i, x in enumerate(inputs)
        ]
        for j, out in enumerate(outputs)
    ]


def _units(tensor: LiteTensor) -> list[torch.Tensor]:
    """The unit vectors of the tensor's space, in its shape."""
    basis = torch.eye(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    return [row.reshape(tensor.shape) for row in basis]


def _stacked(slices: list[Any], out: LiteTensor, x: LiteTensor, dtype: torch.dtype, kind: str) -> Any:
    """A block of the Jacobian, of shape out.shape + x.shape, from its rows or its columns."""
    shape = (*out.shape, *x.shape)
    if not slices:
        empty = LiteTensor(torch.zeros(shape, dtype=dtype, device=out.device))
        return returned_tree(empty, pytree.tree_map)
    block: Any = torch.stack(slices, 0 if kind == "rows" else -1)
    return block.reshape(shape)
