"""vmap: a function of one example, sessions in it and all, run on a batch at once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from neo import pytree
from neo.autograd._batched import is_sliced_here, sliced_calls
from neo.autograd._identity import full_gradients
from neo.autograd._stack import suspended, tracked_here
from neo.autograd._tape import record
from neo.autograd.session._dims import Dim, dims_of, places_of
from neo.autograd.session._keys import keyed_as_given
from neo.autograd.session._recording import moves, name_of, push_through, record_through
from neo.autograd.session._replay import Replay
from neo.autograd.tensor import LiteTensor

__all__ = ["vmap"]


def vmap(
    fn: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    chunk_size: int | None = None,
    randomness: str = "error",
) -> Callable[..., Any]:
    """fn over a dim of its arguments, as one call: what [fn(x[0]), fn(x[1]), ...] stacked would be.

    fn may hold sessions, so that vmap(lambda task: neo.value_and_grad(loss)(params, task))(tasks) adapts to a whole
    meta-batch; sessions around it differentiate through it, at any order; vmaps nest. Underneath is torch.func.vmap:
    inside fn a LiteTensor's `data` stands for one example, whose numbers cannot be read.

    Args:
        fn: takes and returns pytrees of LiteTensors (or torch tensors, which are constants).
        in_dims: along which dim each argument is sliced: an int, None for "the same for every example", or a tuple with
            an entry per argument, each an int, None, or a pytree of those that is a prefix of the argument.
            None among the values is an empty tree, with nothing to slice.
            What fn closes over is the same for every example. Tensors given by keyword are sliced along dim 0, as
            jax.vmap has it (torch.func.vmap leaves them whole); numbers, strings and the like are passed on.
        out_dims: where the batch goes in each output: an int, None for an output that is the same for every example
            and comes once, or a pytree of those that is a prefix of the output.
        chunk_size: so many examples at a time, the last time fewer: the same numbers, with the memory of one chunk for
            what fn computes on the way. None: all at once.
        randomness: of torch's random functions in fn: "error" refuses them, "different" draws for each example, "same"
            draws once for all (with chunk_size too).
    Raises: ValueError for dims that do not fit, sizes that differ, and an output with None in out_dims that depends on
        the example; TypeError for an output that is no tensor; RuntimeError, with the op's name, where torch has no
        batched form of it, and where fn's path depends on numbers (`if x > 0`, x.item()): write
        [fn(x) for x in ...] and torch.stack there.
    Cost: values as torch.func.vmap's. A session around it runs fn once more when it walks back (as checkpoint does),
        and holds the inputs meanwhile.
    """
    if randomness not in ("error", "different", "same"):
        raise ValueError(f'vmap: randomness must be "error", "different" or "same", got {randomness!r}')
    if chunk_size is not None and (
        not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1
    ):
        raise ValueError(f"vmap: chunk_size must be None or an integer of at least 1, got {chunk_size!r}")
    name = f"vmap({name_of(fn, 'vmap')})"

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given: Any = (args, kwargs)
        leaves, spec = pytree.flatten(given, none_is_leaf=True)
        dims, size = dims_of(args, kwargs, in_dims, name)

        def on_leaves(slices: list[Any]) -> Any:
            positional, by_keyword = pytree.unflatten(spec, slices)
            return keyed_as_given(fn(*positional, **by_keyword), slices, leaves)

        def batch(leaves: list[Any]) -> _Batch:
            return _Batch(name, on_leaves, leaves, dims, out_dims, randomness)

        if chunk_size is None or size <= chunk_size:
            return batch(leaves).run()
        return _in_chunks(name, batch, leaves, dims, chunk_size)

    return wrapped


def _in_chunks(
    name: str, batch: Callable[[list[Any]], _Batch], leaves: list[Any], dims: list[Dim], chunk_size: int
) -> Any:
    """The batch in pieces, each a call of its own (to a session around as well), put together again."""
    cut = {i: torch.split(leaves[i], chunk_size, dim) for i, dim in enumerate(dims) if dim is not None}
    count = len(next(iter(cut.values())))
    draws = Replay(name)
    results: list[list[Any]] = []
    spec: Any = None
    for k in range(count):
        piece = batch([cut[i][k] if i in cut else leaf for i, leaf in enumerate(leaves)])
        with draws.repeated() if k and piece.randomness == "same" else contextlib.nullcontext():
            found, structure = pytree.flatten(piece.run(), none_is_leaf=True)
        if k and structure != spec:
            raise ValueError(
                f"{name}: fn gave {spec} for one chunk and {structure} for the next; make it give one structure"
            )
        spec = structure
        results.append(found)
    joined: Any = [
        results[0][j] if place is None else torch.cat([found[j] for found in results], place)
        for j, place in enumerate(piece.places)
    ]
    return pytree.unflatten(spec, joined)


class _Batch:
    """One batched call: fn on slices of `leaves` along `dims` (None: the whole leaf, every time)."""

    def __init__(
        self,
        name: str,
        fn: Callable[[list[Any]], Any],
        leaves: list[Any],
        dims: list[Dim],
        out_dims: Any,
        randomness: str,
    ):
        self.name, self.fn, self.leaves, self.dims = name, fn, leaves, dims
        self.out_dims, self.randomness = out_dims, randomness
        self.sliced = [i for i, dim in enumerate(dims) if dim is not None]
        self.places: list[Dim] = []  # of each output; known when fn has run

    def run(self) -> Any:
        replay = Replay(self.name)
        outputs: list[Any] = [
            LiteTensor._wrap(data.detach()) if lite else data
            for data, lite in zip(self._mapped(), self.lite, strict=True)
        ]
        moving = [i for i, out in enumerate(outputs) if moves(out)]
        arguments = [i for i in self.sliced if moves(self.leaves[i])]
        tracked = tracked_here([self.leaves[i] for i in arguments])
        arguments = [i for i, wanted in zip(arguments, tracked, strict=True) if wanted]
        parents = [*(self.leaves[i] for i in arguments), *self.closed_over]
        if parents and moving:
            results = [outputs[i] for i in moving]
            replay.remember(parents, results)
            places = [self.places[i] for i in moving]
            record(
                results,
                parents,
                self._rule(replay, arguments, places),
                self._tangent_rule(replay, arguments, places),
            )
        return pytree.unflatten(self.spec, outputs)

    def _mapped(self) -> list[Any]:
        """torch.func.vmap of fn over the sliced leaves: each output, with the batch where out_dims puts it."""
        raw = [leaf.data if isinstance(leaf, LiteTensor) else leaf for leaf in self.leaves]
        try:
            batched = iter(
                sliced_calls(self._values, [(raw[i], self.dims[i]) for i in self.sliced], self.randomness)
            )
        except (RuntimeError, ValueError) as error:
            _name_error(self.name, error)
            raise
        return [
            self.whole[i] if place is None else next(batched).movedim(0, place)
            for i, place in enumerate(self.places)
        ]

    def _values(self, *slices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """fn on one slice, every open tape suspended; notes the structure of the output and what fn closed over.

        Gives the outputs that get a batch dim; the others go to self.whole.
        """
        (outputs, self.spec), self.closed_over = suspended(
            lambda: pytree.flatten(self.fn(self._filled(slices)), none_is_leaf=True)
        )
        self.places = places_of(self.out_dims, self.spec, outputs, self.name)
        self.lite = [isinstance(out, LiteTensor) for out in outputs]
        values = [out.data if isinstance(out, LiteTensor) else out for out in outputs]
        self.whole = {i: values[i] for i, place in enumerate(self.places) if place is None}
        for i, value in self.whole.items():
            if isinstance(value, torch.Tensor) and is_sliced_here(value):
                where = "".join(f"[{key!r}]" for key in self.spec.paths()[i])
                raise ValueError(
                    f"{self.name}: out_dims says None for output{where}, the same for every example, but it depends on "
                    f"a sliced argument. Give it a dim in out_dims."
                )
        return tuple(value for i, value in enumerate(values) if i not in self.whole)

    def _filled(self, slices: Sequence[torch.Tensor]) -> list[Any]:
        """The leaves, with slices in place of those that are sliced."""
        filled = list(self.leaves)
        for i, data in zip(self.sliced, slices, strict=True):
            filled[i] = LiteTensor._wrap(data.detach()) if isinstance(self.leaves[i], LiteTensor) else data
        return filled

    def _rule(self, replay: Replay, arguments: list[int], places: list[Dim]) -> Callable[..., list[Any]]:
        """Backward: vmap of the function that gives an example's gradients, so that it can itself be differentiated.

        Gradients of what fn closed over are summed over the examples; those that come of an output which is the same
        for every example count once.
        """
        closed_over, count = self.closed_over, len(self.leaves)
        stacked = [j for j, place in enumerate(places) if place is not None]
        once = [j for j, place in enumerate(places) if place is None]

        def gradients(slices: list[Any]) -> list[list[Any]]:
            leaves, cotangents = slices[:count], slices[count:]
            inputs = [*(leaves[i] for i in arguments), *closed_over]
            tape, outputs = record_through(lambda: self.fn(leaves), inputs)
            replay.expect(len(outputs))

            def pulled(chosen: list[int], wanted: list[Any], keep: bool) -> list[Any]:
                ends, bars = [outputs[j] for j in chosen], [cotangents[j] for j in chosen]
                return full_gradients(tape.gradients(ends, bars, wanted, keep=keep), wanted)

            each = pulled(stacked, inputs, keep=bool(once))
            whole = pulled(once, closed_over, keep=False) if once else []
            return [each, whole, [out.data for out in outputs]]  # the values as constants, to be compared

        def backward(*cotangents: LiteTensor) -> list[Any]:
            leaves, dims = [*self.leaves, *cotangents], [*self.dims, *places]
            batch = _Batch(self.name, gradients, leaves, dims, [0, None, places], self.randomness)
            with replay.again():
                each, whole, values = batch.run()
            replay.compare(values)
            moved = [g.movedim(0, self.dims[i]) for g, i in zip(each, arguments, strict=False)]
            shared = [g.sum(0) for g in each[len(arguments) :]]
            return [*moved, *([g + h for g, h in zip(shared, whole, strict=True)] if once else shared)]

        backward.__name__ = self.name
        return backward

    def _tangent_rule(
        self, replay: Replay, arguments: list[int], places: list[Dim]
    ) -> Callable[..., list[Any]]:
        """Forward mode: vmap of the function that gives an example's tangents, itself to be differentiated."""
        closed_over, count = self.closed_over, len(self.leaves)

        def jvp(*dots: LiteTensor | None) -> list[Any]:
            moved = [i for i, dot in enumerate(dots) if dot is not None]

            def tangents(slices: list[Any]) -> list[list[Any]]:
                leaves = slices[:count]
                inputs = [*(leaves[i] for i in arguments), *closed_over]
                outputs, found = push_through(
                    lambda: self.fn(leaves), [inputs[i] for i in moved], slices[count:]
                )
                replay.expect(len(outputs))
                return [found, [out.data for out in outputs]]  # the values as constants, to be compared

            leaves = [*self.leaves, *(dots[i] for i in moved)]
            dims = [*self.dims, *(self.dims[arguments[i]] if i < len(arguments) else None for i in moved)]
            batch = _Batch(self.name, tangents, leaves, dims, [places, places], self.randomness)
            with replay.again():
                found, values = batch.run()
            replay.compare(values)
            return list(found)

        jvp.__name__ = self.name
        return jvp


def _name_error(name: str, error: Exception) -> None:
    """Say which vmap, in front of torch's words about what it cannot batch."""
    if len(error.args) == 1 and isinstance(error.args[0], str):
        words = error.args[0]
        if (
            any(sign in words for sign in ("vmap", "atching rule", "functorch", "data pointer"))
            and name not in words
        ):
            error.args = (f"{name}: {words}",)
