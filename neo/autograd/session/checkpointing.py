"""Recomputation in place of memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from neo import pytree
from neo.autograd._stack import TapeContext, suspended
from neo.autograd._tape import record
from neo.autograd.session._recording import moves, name_of, push_through, record_through
from neo.autograd.session._replay import Replay
from neo.autograd.tensor import LiteTensor

__all__ = ["checkpoint"]


def checkpoint(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn with the same values and gradients, which recomputes fn in backward instead of storing what it did.

    Memory of one call: its inputs and outputs. Time: one more fn per backward. Random draws are repeated: torch's
    default generators, on the CPU and on CUDA, and the seed of neo.nn.draws are set back for the recomputation. Also
    what fn closes over gets its gradient. Chen et al. 2016, arXiv:1604.06174.

    Raises: SavedTensorError when an input was changed in place in between, or when the recomputation gives other
    values (fn keeps state, or draws from a generator of its own).
    """

    name = f"checkpoint({name_of(fn, 'checkpoint')})"

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if TapeContext.current() is None:
            return fn(*args, **kwargs)
        replay = Replay(name)
        (leaves, spec), taken = suspended(lambda: pytree.flatten(fn(*args, **kwargs), where=(name, "output")))
        moving = [i for i, leaf in enumerate(leaves) if moves(leaf)]
        for i in moving:
            leaves[i] = LiteTensor._wrap(leaves[i].data.detach())
        replay.remember(taken, [leaves[i] for i in moving])

        def backward(*cotangents: LiteTensor) -> list[Any]:
            with replay.again():
                tape, outputs = record_through(lambda: fn(*args, **kwargs), taken)
            replay.compare([out.data for out in outputs])
            return tape.gradients(outputs, cotangents, taken)

        def jvp(*dots: LiteTensor | None) -> list[Any]:
            # A checkpoint in its turn, so that a session around keeps nothing of the tangents either.
            moved: list[Any] = checkpoint(pushed)(list(dots))
            return moved

        def pushed(dots: list[LiteTensor | None]) -> list[Any]:
            with replay.again():
                outputs, found = push_through(lambda: fn(*args, **kwargs), taken, dots)
            replay.compare([out.data for out in outputs])
            return found

        backward.__name__ = jvp.__name__ = name
        if taken and moving:
            record([leaves[i] for i in moving], taken, backward, jvp)
        return pytree.unflatten(spec, leaves)

    return wrapped
