"""What is built from sessions: forward products, Hessian products, Jacobians, recomputation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optree
import torch

from neo.autograd._tape import Tape, TapeContext, record, suspended
from neo.autograd.session import close, vjp
from neo.drawing import replay
from neo.errors import SavedTensorError
from neo.tensor import LiteTensor

__all__ = ["checkpoint", "hessian", "hvp", "jacobian", "jvp"]


def jvp(fn: Callable[..., Any], args: tuple, tangents: tuple) -> tuple[Any, Any]:
    """fn(*args), and its derivative along `tangents` (a tuple that mirrors args; None for constants).

    The pullback v ↦ Jᵀv is linear, and its own pullback is t ↦ J t: forward mode from two reverse passes
    (Townsend 2017, "A new trick for calculating Jacobian vector products"). Cost: about three times fn.
    """
    _expect_tuples("jvp", args, tangents)
    out, pullback = vjp(fn, *args)
    zeros = optree.tree_map(lambda leaf: LiteTensor._wrap(torch.zeros_like(leaf.data)), out)
    _, transpose = vjp(pullback, zeros)
    (tangent,) = transpose(tangents)
    return out, tangent


def hvp(fn: Callable[..., Any], args: Any, vectors: Any) -> Any:
    """Hessian-vector product H v of the sum of fn's outputs, in the structure of `vectors`.

    args, vectors: tuples that mirror each other, or one argument and its vector. Reverse over reverse: H is symmetric,
    so that the pullback of the gradient at v is H v. Cost: about four times fn; H is never formed.
    """
    single = not isinstance(args, tuple)
    if single:
        args, vectors = (args,), (vectors,)
    _expect_tuples("hvp", args, vectors)

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
    def wrapped(x: LiteTensor) -> LiteTensor:
        if not isinstance(x, LiteTensor):
            raise TypeError(f"jacobian: expected one LiteTensor, got {type(x).__name__}")
        out, pullback = vjp(fn, x)
        if not isinstance(out, LiteTensor):
            raise TypeError(f"jacobian: expected fn to return one LiteTensor, got {type(out).__name__}")
        basis = torch.eye(out.numel(), dtype=out.dtype, device=out.device)
        rows = [pullback(basis[i].reshape(out.shape))[0] for i in range(out.numel())]
        if not rows:
            return LiteTensor(
                torch.zeros(tuple(out.shape) + tuple(x.shape), dtype=out.dtype, device=out.device)
            )
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
    generators are set back for the recomputation. Also what fn closes over gets its gradient. Raises SavedTensorError
    when an input was changed in place in between. Chen et al. 2016, arXiv:1604.06174.
    """

    name = f"checkpoint({getattr(fn, '__name__', type(fn).__name__)})"

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if TapeContext.current() is None:
            return fn(*args, **kwargs)
        draws, seeded_draws = _generator_states(), replay()
        (leaves, spec), taken = suspended(lambda: optree.tree_flatten(fn(*args, **kwargs)))
        moving = [
            i for i, leaf in enumerate(leaves) if isinstance(leaf, LiteTensor) and leaf.is_floating_point()
        ]
        for i in moving:
            leaves[i] = LiteTensor._wrap(leaves[i].data.detach())
        versions = [value.data._version for value in taken]

        def backward(*cotangents: LiteTensor) -> list[Any]:
            for value, version in zip(taken, versions, strict=True):
                if value.data._version != version:
                    raise SavedTensorError(
                        f"{name}: an input of shape {tuple(value.shape)} was changed in place before backward, so "
                        f"that recomputing would give other values. Work on a clone."
                    )
            tape = Tape()
            for value in taken:
                tape.watch(value)
            with _generators_set_to(draws), seeded_draws:
                TapeContext.push(tape)
                try:
                    again = optree.tree_leaves(fn(*args, **kwargs))
                finally:
                    close(tape)
            return tape.gradients([again[i] for i in moving], cotangents, taken)

        backward.__name__ = name
        if taken and moving:
            record([leaves[i] for i in moving], taken, backward)
        return optree.tree_unflatten(spec, leaves)

    return wrapped


def _generator_states() -> tuple[torch.Tensor, list[torch.Tensor]]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda


class _generators_set_to:
    """torch's default generators at an earlier state, and back."""

    def __init__(self, states: tuple[torch.Tensor, list[torch.Tensor]]):
        self.states = states

    def __enter__(self) -> None:
        self.before = _generator_states()
        _set_generators(self.states)

    def __exit__(self, *_: object) -> None:
        _set_generators(self.before)


def _set_generators(states: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])


def _expect_tuples(name: str, args: Any, others: Any) -> None:
    if not (isinstance(args, tuple) and isinstance(others, tuple) and len(args) == len(others)):
        raise TypeError(
            f"{name}: expected two tuples of the same length, one entry per argument of fn; got "
            f"{type(args).__name__} of {len(args) if hasattr(args, '__len__') else '?'} and "
            f"{type(others).__name__} of {len(others) if hasattr(others, '__len__') else '?'}"
        )
