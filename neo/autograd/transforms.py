"""What is built from sessions: forward products, Hessian products, Jacobians, recomputation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optree
import torch

from neo.autograd._replay import Replay
from neo.autograd._tape import Tape, TapeContext, differentiable, full_gradients, record, suspended
from neo.autograd.session import Arguments, close, describe, name_of, run, vjp
from neo.tensor import LiteTensor

__all__ = ["checkpoint", "hessian", "hvp", "jacobian", "jvp"]


def jvp(fn: Callable[..., Any], args: tuple, tangents: tuple) -> tuple[Any, Any]:
    """fn(*args), and its derivative along `tangents` (a tuple that mirrors args; None for constants).

    Every op pushes its tangents on by its Policy's own `jvp`, or, where it has none, by its backward: v ↦ Jᵀ v is
    linear, and its own pullback is t ↦ J t (Townsend 2017, "A new trick for calculating Jacobian vector products").
    Nests with sessions and with itself, at any order.

    Raises: TypeError for no two tuples of one length; ValueError for a tangent that does not match its argument.
    Cost: about three times fn, less where Policies have a jvp; fn's intermediates are kept until it is done.
    """
    _expect_tuples("jvp", args, tangents)
    name = name_of(fn)
    dots = _tangents(args, tangents)
    tape = Tape(keep_tensors=True)
    slots = Arguments(args, range(len(args)), name, integers="constant")
    out, outputs = run(tape, fn, slots, {}, False, name)
    moved = tape.tangents(slots.fresh, dots, outputs)
    spec = optree.tree_structure(out)
    return out, optree.tree_unflatten(spec, full_gradients(moved, outputs))


def _tangents(args: tuple, tangents: tuple) -> list[Any]:
    """A tangent for each floating-point LiteTensor in args, in order; errors name the argument."""
    dots: list[Any] = []
    arg: Any
    dot: Any
    for i, (arg, given) in enumerate(zip(args, tangents, strict=True)):
        leaves, spec = optree.tree_flatten(arg)
        try:
            parts = spec.flatten_up_to(given)
        except (ValueError, TypeError) as error:
            raise ValueError(f"jvp: the tangent of argument {i} must mirror it: {error}") from None
        for leaf, dot, path in zip(leaves, parts, spec.paths(), strict=True):
            where = f"argument {i}" + "".join(f"[{key!r}]" for key in path)
            if not differentiable(leaf):
                if dot is not None:
                    raise ValueError(
                        f"jvp: {where} is a constant ({describe(leaf)}), so that its tangent must be None, got "
                        f"{describe(dot)}. Wrap floating-point data in neo.LiteTensor(...) to move it."
                    )
                continue
            if dot is None and isinstance(
                leaf, torch.Tensor
            ):  # in a Policy's rule: a constant of the caller's
                dot = torch.zeros_like(leaf)
            if dot is None:
                raise ValueError(f"jvp: {where} needs a tangent of shape {tuple(leaf.shape)}, got None")
            if not isinstance(dot, LiteTensor | torch.Tensor):
                dot = LiteTensor(dot, dtype=leaf.dtype, device=leaf.device)
            if dot.shape != leaf.shape or dot.dtype != leaf.dtype or dot.device != leaf.device:
                raise ValueError(
                    f"jvp: the tangent of {where} is {describe(dot)} on {dot.device}, expected shape "
                    f"{tuple(leaf.shape)}, {leaf.dtype}, on {leaf.device}, as the argument has"
                )
            dots.append(dot.detach() if isinstance(dot, torch.Tensor) else dot)
    return dots


def hvp(fn: Callable[..., Any], args: Any, vectors: Any) -> Any:
    """Hessian-vector product H v of the sum of fn's outputs, in the structure of `vectors`.

    args, vectors: tuples that mirror each other, or one argument and its vector. Reverse over reverse: H is symmetric,
    so that the pullback of the gradient at v is H v. Cost: about four times fn; H is never formed.
    """
    single = not isinstance(args, tuple)
    if single:
        args, vectors = (args,), (vectors,)
    _expect_tuples("hvp", args, vectors)
    vectors = tuple(
        torch.zeros_like(arg)
        if vector is None and isinstance(arg, torch.Tensor) and differentiable(arg)
        else vector
        for arg, vector in zip(args, vectors, strict=True)
    )

    def gradient(*primals: Any) -> Any:
        out, pullback = vjp(fn, *primals)
        return pullback(optree.tree_map(lambda leaf: torch.ones_like(leaf.data), out))

    _, pullback = vjp(gradient, *args)
    product = pullback(vectors)
    return product[0] if single else product


def jacobian(fn: Callable[[Any], Any]) -> Callable[[Any], LiteTensor]:
    """x ↦ ∂fn/∂x, of shape out.shape + x.shape, for one floating-point tensor in and one out.

    Cost: fn once and one backward per entry of the output. Differentiable, so that jacobian(jacobian(f)) is right.
    """

    @functools.wraps(fn)
    def wrapped(x: Any) -> Any:
        if not (isinstance(x, LiteTensor) or differentiable(x)):
            raise TypeError(f"jacobian: expected one LiteTensor, got {type(x).__name__}")
        out, pullback = vjp(fn, x)
        if not isinstance(out, LiteTensor | torch.Tensor):
            raise TypeError(f"jacobian: expected fn to return one LiteTensor, got {type(out).__name__}")
        basis = torch.eye(out.numel(), dtype=out.dtype, device=out.device)
        rows = [pullback(basis[i].reshape(out.shape))[0] for i in range(out.numel())]
        if not rows:
            empty = torch.zeros(tuple(out.shape) + tuple(x.shape), dtype=out.dtype, device=out.device)
            return LiteTensor(empty) if isinstance(out, LiteTensor) else empty
        rows_as_matrix: Any = torch.stack(rows)
        return rows_as_matrix.reshape(tuple(out.shape) + tuple(x.shape))

    return wrapped


def hessian(fn: Callable[[Any], Any]) -> Callable[[Any], LiteTensor]:
    """x ↦ ∂²fn/∂x², of shape x.shape + x.shape for a scalar fn (out.shape in front for any other).

    Cost: one gradient and, per entry of x, one backward through it; use hvp where a product is enough.
    """
    return jacobian(jacobian(fn))


def checkpoint(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn with the same values and gradients, which recomputes fn in backward instead of storing what it did.

    Memory of one call: its inputs and outputs. Time: one more fn per backward. Random draws are repeated: torch's
    default generators, on the CPU and on CUDA, are set back for the recomputation. Also what fn closes over gets its
    gradient. Chen et al. 2016, arXiv:1604.06174.

    Raises: SavedTensorError when an input was changed in place in between, or when the recomputation gives other
    values (fn keeps state, or draws from a generator of its own).
    """

    name = f"checkpoint({name_of(fn)})"

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if TapeContext.current() is None:
            return fn(*args, **kwargs)
        replay = Replay(name)
        (leaves, spec), taken = suspended(lambda: optree.tree_flatten(fn(*args, **kwargs)))
        moving = [
            i for i, leaf in enumerate(leaves) if isinstance(leaf, LiteTensor) and leaf.is_floating_point()
        ]
        for i in moving:
            leaves[i] = LiteTensor._wrap(leaves[i].data.detach())
        replay.remember(taken, [leaves[i] for i in moving])

        def backward(*cotangents: LiteTensor) -> list[Any]:
            tape = Tape()
            for value in taken:
                tape.watch(value)
            with replay.again():
                TapeContext.push(tape)
                try:
                    leaves = optree.tree_leaves(fn(*args, **kwargs))
                finally:
                    close(tape)
            outputs = [leaf for leaf in leaves if isinstance(leaf, LiteTensor) and leaf.is_floating_point()]
            replay.compare([out.data for out in outputs])
            return tape.gradients(outputs, cotangents, taken)

        backward.__name__ = name
        if taken and moving:
            record([leaves[i] for i in moving], taken, backward)
        return optree.tree_unflatten(spec, leaves)

    return wrapped


def _expect_tuples(name: str, args: Any, others: Any) -> None:
    if not (isinstance(args, tuple) and isinstance(others, tuple) and len(args) == len(others)):
        raise TypeError(
            f"{name}: expected two tuples of the same length, one entry per argument of fn; got "
            f"{type(args).__name__} of {len(args) if hasattr(args, '__len__') else '?'} and "
            f"{type(others).__name__} of {len(others) if hasattr(others, '__len__') else '?'}"
        )
