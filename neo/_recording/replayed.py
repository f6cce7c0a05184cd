"""Replayed: a step on tensors of one layout, recorded, replayed, and compared with itself wherever that may tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optree
import torch

from neo import draws, pytree
from neo._recording.recording import record
from neo.autograd.tensor import LiteTensor
from neo.errors import CaptureError
from neo.kernels import replay

__all__ = ["Replayed", "recordable"]

CLOSE = 1e-3  # of the largest entry: how far apart a replay and the step may be where they differ by rounding
_LITE, _RAW = object(), object()  # in place of an output: a LiteTensor, a torch.Tensor
_transform = torch._C._functorch.peek_interpreter_stack


def recordable(tensors: list[torch.Tensor]) -> bool:
    """Whether a step on these tensors can be recorded here and now.

    Not inside torch.func's transforms, torch's modes, autocast and inference mode, which a replay would not meet; nor
    on tensors that are more than numbers in the CPU's memory.
    """
    return (
        bool(tensors)
        and replay.available
        and _transform() is None
        and torch._C._len_torch_dispatch_stack() == torch._C._len_torch_function_stack() == 0
        and not torch._C._is_any_autocast_enabled()
        and not torch.is_inference_mode_enabled()
        and all(map(_plain, tensors))
    )


def _plain(tensor: torch.Tensor) -> bool:
    if (
        type(tensor) not in (torch.Tensor, torch.nn.Parameter)
        or tensor.requires_grad
        or tensor.is_inference()
    ):
        return False
    if not tensor.is_cpu or tensor.layout is not torch.strided or tensor.is_neg() or tensor.is_conj():
        return False
    return tensor.data_ptr() % tensor.itemsize == 0  # numpy has arrays at odd addresses, which rules copy


class Replayed:
    """One recording of a step.

    Its first replay is made beside the step itself, and so is one whenever an input changes that has not changed since
    the recording: numbers that came in by a way that the recorder does not see are found by then.

    leaves, spec: of (args, kwargs), as neo.pytree flattens them.
    Raises: CaptureError where the step cannot be recorded.
    """

    def __init__(self, step: Callable[..., Any], leaves: list[Any], spec: optree.PyTreeSpec):
        self.name = getattr(step, "__name__", str(step))
        # On tensors of their own, so that what somebody keeps for a tensor that he has seen is not found.
        copies = {id(leaf): _copy(leaf) for leaf in leaves if _is_tensor(leaf)}
        args, kwargs = pytree.unflatten(spec, [copies.get(id(leaf), leaf) for leaf in leaves])
        # Of the tensors that a call is given, some may be one; the program has each of them once.
        tensors = [id(leaf) for leaf in leaves if _is_tensor(leaf)]
        self.places = [tensors.index(one) for one in copies]
        self.alike = len(copies) == len(tensors)
        self.unchanged: list[torch.Tensor | None] = [_raw(copies[one]) for one in tensors]
        found: list[Any] = []

        def run() -> list[torch.Tensor]:
            found[:] = pytree.flatten(step(*args, **kwargs), none_is_leaf=True)
            return [_raw(leaf) for leaf in found[0] if _is_tensor(leaf)]

        generators = _generators()
        before = [generator.get_state() for generator in generators]
        block = None if len(generators) == 1 else generators[0]
        self.program, self.draws, self.from_block = record(
            run, list(map(_raw, copies.values())), self.name, block
        )
        if self.draws:
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)
        self.leaves, self.spec = found
        self._expect_tensors_alone()
        self.leaves = [_kind(leaf) for leaf in self.leaves]
        self.new, self.failed = True, False

    def _expect_tensors_alone(self) -> None:
        if any(isinstance(entry, LiteTensor) for path in self.spec.paths() for entry in path):
            raise CaptureError(
                f"capture({self.name}): the step's result has tensors as keys, and these are others at every call. "
                "Ask for gradients by argnums."
            )
        if any(_raw(leaf).requires_grad for leaf in self.leaves if _is_tensor(leaf)):
            raise CaptureError(
                f"capture({self.name}): the step's result requires a gradient, which torch.autograd could not find "
                "behind a replay. Use tensors that do not, or detach the result."
            )

    def takes(self, tensors: list[torch.Tensor]) -> bool:
        """Whether this is a recording for tensors of these layouts, here and now."""
        distinct = tensors if self.alike else [tensors[i] for i in self.places]
        return self.program.takes(distinct)

    def __call__(self, tensors: list[torch.Tensor], step: Callable[[], Any]) -> Any:
        """What the step gives; step: the call itself."""
        if self.failed:
            return step()
        changed = replay.changed(tensors, self.unchanged) if self.unchanged else []
        if self.new or changed:
            return self._compared(tensors, step, changed)
        given = iter(self._run(tensors))
        leaves = [
            LiteTensor._wrap(next(given)) if leaf is _LITE else next(given) if leaf is _RAW else leaf
            for leaf in self.leaves
        ]
        return pytree.unflatten(self.spec, leaves)

    def _run(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        given = tensors if self.alike else [tensors[i] for i in self.places]
        return self.program.replay(given, _generators()[0] if self.from_block else None)

    def _compared(self, tensors: list[torch.Tensor], step: Callable[[], Any], changed: list[int]) -> Any:
        """What the step itself gives; CaptureError unless a replay gives and draws the same."""
        generators = _generators() if self.draws else []  # else other threads' draws are left alone
        before = [generator.get_state() for generator in generators]
        replayed = self._run(tensors)
        drawn = [generator.get_state() for generator in generators]
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
        result = step()
        same = all(torch.equal(one.get_state(), state) for one, state in zip(generators, drawn, strict=True))
        wrong = self._difference(replayed, result) if same else "other random draws"
        if wrong:
            self.failed = True
            raise CaptureError(
                f"capture({self.name}): a replay gave {wrong} than the step itself: what it computes depends on more "
                "than the tensors it is given, by what Python decides (an `if`, a counter, numpy), or by kernels that "
                "torch does not see. From now on calls like this one are not replayed."
            )
        self.new = False
        for i in changed:
            self.unchanged[i] = None
        if not any(one is not None for one in self.unchanged):
            self.unchanged = []
        return result

    def _difference(self, replayed: list[torch.Tensor], result: Any) -> str:
        """In what a replay's outputs differ from the step's result; "" for nothing."""
        leaves: list[Any]
        leaves, spec = pytree.flatten(result, none_is_leaf=True)
        if spec != self.spec or list(map(_kind, leaves)) != self.leaves:
            return "a result of another structure"
        places = [i for i, leaf in enumerate(leaves) if _is_tensor(leaf)]
        apart = [i for i, one in zip(places, replayed, strict=True) if not _close(one, _raw(leaves[i]))]
        return (
            "other numbers in " + ", ".join(spec.accessors()[i].codify("result") for i in apart)
            if apart
            else ""
        )


def _generators() -> list[torch.Generator]:
    """What may be drawn from: the generator of the block of draws around, where it has a seed, and torch's own."""
    block = draws.source()
    of_block = [] if block is None or block.seed is None else [block.generator(torch.device("cpu"))]
    return [*of_block, torch.default_generator]


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor | torch.Tensor)


def _raw(leaf: Any) -> torch.Tensor:
    return leaf.data if isinstance(leaf, LiteTensor) else leaf


def _kind(leaf: Any) -> Any:
    return _LITE if isinstance(leaf, LiteTensor) else _RAW if isinstance(leaf, torch.Tensor) else leaf


def _copy(leaf: Any) -> Any:
    """On memory of its own, with the strides that it has, be they 0."""
    tensor = _raw(leaf)
    if tensor.numel():
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        span = 1 + sum((size - 1) * stride for size, stride in steps)
        copy = tensor.as_strided((span,), (1,)).clone().as_strided(tensor.shape, tensor.stride())
    else:
        copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return LiteTensor(copy) if isinstance(leaf, LiteTensor) else copy


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """The same numbers but for rounding, where a kernel goes by how memory is aligned."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    same = (one == other) | ((one != one) & (other != other))  # nan is itself
    if same.all() or not one.is_floating_point():
        return bool(same.all())
    scale = torch.where(other.isfinite(), other, 0).abs().max()
    return bool((same | ((one - other).abs() <= CLOSE * scale)).all())
