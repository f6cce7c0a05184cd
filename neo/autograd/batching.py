"""vmap: a function of one example, sessions in it and all, run on a batch at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch

from neo.autograd._replay import Replay
from neo.autograd._tape import Tape, TapeContext, full_gradients, listened, record, suspended
from neo.autograd.session import close, describe, name_of
from neo.tensor import LiteTensor

__all__ = ["vmap"]


def vmap(
    fn: Callable[..., Any], in_dims: Any = 0, out_dims: Any = 0, *, randomness: str = "error"
) -> Callable[..., Any]:
    """fn over a dim of its arguments, as one call: what [fn(x[0]), fn(x[1]), ...] stacked would be.

    fn may hold sessions, so that vmap(lambda task: neo.value_and_grad(loss)(params, task))(tasks) adapts to a whole
    meta-batch; sessions around it differentiate through it, at any order; vmaps nest. Underneath is torch.func.vmap:
    inside fn a LiteTensor's `data` stands for one example, whose numbers cannot be read.

    Args:
        fn: takes and returns pytrees of LiteTensors (or torch tensors, which are constants).
        in_dims: along which dim each argument is sliced: an int, None for "the same for every example", or a tuple with
            an entry per argument, each an int, None, or a pytree of those that is a prefix of the argument.
            What fn closes over is the same for every example. Keyword arguments are, too.
        out_dims: where the batch goes in each output: an int or a pytree of ints that is a prefix of the output.
        randomness: of torch's random functions in fn: "error" refuses them, "different" draws for each example, "same"
            draws once for all.
    Raises: ValueError for dims that do not fit, or sizes that differ; TypeError for an output that is no tensor;
        RuntimeError, with the op's name, where torch has no batched form of it, and where fn's path depends on numbers
        (`if x > 0`, x.item()): write [fn(x) for x in ...] and torch.stack there.
    Cost: values as torch.func.vmap's. A session around it runs fn once more when it walks back (as checkpoint does),
        and holds the inputs meanwhile.
    """
    if randomness not in ("error", "different", "same"):
        raise ValueError(f'vmap: randomness must be "error", "different" or "same", got {randomness!r}')
    name = f"vmap({name_of(fn)})"

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        tree: Any = args
        leaves, spec = optree.tree_flatten(tree, none_is_leaf=True)
        dims = _dims_of(args, in_dims, name)

        def on_leaves(slices: list[Any]) -> Any:
            return fn(*optree.tree_unflatten(spec, slices), **kwargs)

        return _Batch(name, on_leaves, leaves, dims, out_dims, randomness).run()

    return wrapped


class _Batch:
    """One batched call: fn on slices of `leaves` along `dims` (None: the whole leaf, every time)."""

    def __init__(
        self,
        name: str,
        fn: Callable[[list[Any]], Any],
        leaves: list[Any],
        dims: list[int | None],
        out_dims: Any,
        randomness: str,
    ):
        self.name, self.fn, self.leaves, self.dims = name, fn, leaves, dims
        self.out_dims, self.randomness = out_dims, randomness
        self.sliced = [i for i, dim in enumerate(dims) if dim is not None]

    def run(self) -> Any:
        replay = Replay(self.name)
        batched = self._mapped(self._values)
        outputs: list[Any] = [
            LiteTensor._wrap(data.detach()) if lite else data
            for data, lite in zip(batched, self.lite, strict=True)
        ]
        moving = [i for i, out in enumerate(outputs) if _moves(out)]
        arguments = [i for i in self.sliced if _moves(self.leaves[i])]
        heard = listened([self.leaves[i] for i in arguments])
        arguments = [i for i, wanted in zip(arguments, heard, strict=True) if wanted]
        parents = [*(self.leaves[i] for i in arguments), *self.closed_over]
        if parents and moving:
            results = [outputs[i] for i in moving]
            replay.remember(parents, results)
            record(results, parents, self._rule(replay, arguments, [self.places[i] for i in moving]))
        return optree.tree_unflatten(self.spec, outputs)

    def _mapped(self, fn: Callable[..., Any]) -> list[torch.Tensor]:
        """torch.func.vmap of fn over the sliced leaves, with the batch of each output where out_dims puts it."""
        raw = [leaf.data if isinstance(leaf, LiteTensor) else leaf for leaf in self.leaves]
        mapped = torch.func.vmap(
            fn, in_dims=tuple(self.dims[i] for i in self.sliced), randomness=self.randomness
        )
        try:
            outputs = mapped(*[raw[i] for i in self.sliced])
        except (RuntimeError, ValueError) as error:
            _name_error(self.name, error)
            raise
        return [out.movedim(0, place) for out, place in zip(outputs, self.places, strict=True)]

    def _values(self, *slices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """fn on one slice, every open tape suspended; notes the structure of the output and what fn closed over."""
        (outputs, self.spec), self.closed_over = suspended(
            lambda: optree.tree_flatten(self.fn(self._filled(slices)))
        )
        for i, out in enumerate(outputs):
            if not isinstance(out, LiteTensor | torch.Tensor):
                where = "".join(f"[{key!r}]" for key in self.spec.paths()[i])
                raise TypeError(
                    f"{self.name}: fn's output{where} must be a LiteTensor or a torch.Tensor, got {describe(out)}"
                )
        self.lite = [isinstance(out, LiteTensor) for out in outputs]
        self.places = _places(self.out_dims, self.spec, outputs, self.name)
        return tuple(out.data if isinstance(out, LiteTensor) else out for out in outputs)

    def _filled(self, slices: Sequence[torch.Tensor]) -> list[Any]:
        """The leaves, with slices in place of those that are sliced."""
        filled = list(self.leaves)
        for i, data in zip(self.sliced, slices, strict=True):
            filled[i] = LiteTensor._wrap(data.detach()) if isinstance(self.leaves[i], LiteTensor) else data
        return filled

    def _rule(self, replay: Replay, arguments: list[int], places: list[int]) -> Callable[..., list[Any]]:
        """Backward: vmap of the function that gives an example's gradients, so that it can itself be differentiated.

        Gradients of what fn closed over are summed over the examples.
        """
        closed_over, count = self.closed_over, len(self.leaves)

        def gradients(slices: list[Any]) -> list[Any]:
            leaves, cotangents = slices[:count], slices[count:]
            tape = Tape()
            inputs = [*(leaves[i] for i in arguments), *closed_over]
            for value in inputs:
                tape.watch(value)
            TapeContext.push(tape)
            try:
                outputs = [out for out in optree.tree_leaves(self.fn(leaves)) if _moves(out)]
            finally:
                close(tape)
            pulled = tape.gradients(outputs, cotangents, inputs)
            found = full_gradients(pulled, inputs)
            return [*found, *(out.data for out in outputs)]  # the values as constants, to be compared

        def backward(*cotangents: LiteTensor) -> list[Any]:
            batch = _Batch(
                self.name, gradients, [*self.leaves, *cotangents], [*self.dims, *places], 0, self.randomness
            )
            with replay.again():
                pulled = batch.run()
            own, shared, values = (
                pulled[: len(arguments)],
                pulled[len(arguments) : len(arguments) + len(closed_over)],
                pulled[len(arguments) + len(closed_over) :],
            )
            replay.compare([value.movedim(0, place) for value, place in zip(values, places, strict=True)])
            moved = [g.movedim(0, self.dims[i]) for g, i in zip(own, arguments, strict=True)]
            return [*moved, *(g.sum(0) for g in shared)]

        backward.__name__ = self.name
        return backward


def _moves(value: Any) -> bool:
    return isinstance(value, LiteTensor) and value.is_floating_point()


def _dims_of(args: tuple, in_dims: Any, name: str) -> list[int | None]:
    """The dim of each leaf of args (None counting as a leaf), from 0 on; errors name the argument."""
    if isinstance(in_dims, list):
        in_dims = tuple(in_dims)
    if isinstance(in_dims, tuple) and len(in_dims) != len(args):
        raise ValueError(
            f"{name}: in_dims has {len(in_dims)} entries, expected {len(args)}, one per argument"
        )
    per_argument = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(args)
    dims: list[int | None] = []
    sizes: dict[int, str] = {}
    for position, (arg, given) in enumerate(zip(args, per_argument, strict=True)):
        try:
            spread = optree.broadcast_prefix(given, arg, none_is_leaf=True)
        except ValueError as error:
            raise ValueError(
                f"{name}: in_dims[{position}] = {given!r} does not fit argument {position}: {error}"
            ) from None
        leaves, paths = optree.tree_leaves(arg, none_is_leaf=True), optree.tree_paths(arg, none_is_leaf=True)
        for leaf, path, dim in zip(leaves, paths, spread, strict=True):
            where = f"argument {position}" + "".join(f"[{key!r}]" for key in path)
            dims.append(_checked(leaf, dim, where, name))
            if dims[-1] is not None:
                sizes.setdefault(leaf.shape[dims[-1]], f"{where} along dim {dim}")
    if len(sizes) > 1:
        listed = ", ".join(f"{size} in {where}" for size, where in sizes.items())
        raise ValueError(f"{name}: every sliced dim must have one size, the batch's, got {listed}")
    if not sizes:
        raise ValueError(f"{name}: nothing to map over: in_dims {in_dims!r} slices no argument")
    return dims


def _checked(leaf: Any, dim: Any, where: str, name: str) -> int | None:
    if dim is None:
        return None
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise ValueError(f"{name}: in_dims of {where} must be an int or None, got {dim!r}")
    if not isinstance(leaf, LiteTensor | torch.Tensor):
        raise ValueError(
            f"{name}: {where} is {describe(leaf)}, which has no dim {dim} to slice. Give None for it in in_dims, or "
            f"make it a tensor; a container that optree does not know must be registered with it."
        )
    if not -leaf.ndim <= dim < leaf.ndim:
        raise ValueError(f"{name}: {where} has shape {tuple(leaf.shape)}, and no dim {dim} to slice")
    return dim % leaf.ndim


def _places(out_dims: Any, spec: Any, outputs: list[Any], name: str) -> list[int]:
    """Where the batch goes in each output; outputs are those of one example."""
    try:
        spread = optree.broadcast_prefix(out_dims, optree.tree_unflatten(spec, outputs))
    except ValueError:
        spread = []
    if len(spread) != len(outputs) or not all(isinstance(dim, int) for dim in spread):
        raise ValueError(f"{name}: out_dims must be ints, a prefix of the output {spec}, got {out_dims!r}")
    for dim, out in zip(spread, outputs, strict=True):
        if not -out.ndim - 1 <= dim <= out.ndim:
            raise ValueError(
                f"{name}: an output has shape {tuple(out.shape)} for each example, and no place {dim} for the batch"
            )
    return list(spread)


def _name_error(name: str, error: Exception) -> None:
    """Say which vmap, in front of torch's words about what it cannot batch."""
    if len(error.args) == 1 and isinstance(error.args[0], str):
        words = error.args[0]
        if (
            any(sign in words for sign in ("vmap", "atching rule", "functorch", "data pointer"))
            and name not in words
        ):
            error.args = (f"{name}: {words}",)
