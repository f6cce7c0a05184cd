"""capture: a step recorded once and replayed, so that its kernels wait for no Python: a CUDA graph's, or the CPU's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import optree
import torch

from neo import draws, kernels, pytree
from neo._recording import Replayed, recordable
from neo.autograd import TapeContext
from neo.autograd.tensor import LiteTensor
from neo.errors import CaptureError

__all__ = ["capture"]

Step = TypeVar("Step", bound=Callable[..., Any])

WARM_UPS = 3  # runs before a CUDA graph, in which libraries choose kernels and allocate what they keep


def capture(step: Step) -> Step:
    """`step` with the same arguments and results, its kernels called without Python between them.

    The first call with tensors on a GPU runs `step` a few times and records the kernels of one run in a CUDA graph;
    later calls copy their tensors into the recording's and replay it: one launch in place of one a kernel. On the CPU
    the first call records every kernel call of one run, and later calls make these again, without those that the
    results do not depend on, and with memory going free as in the run. A call with other shapes, strides, dtypes,
    structure or constants records anew, and all recordings are kept. Under an open session (whose tape a replay would
    not reach), inside a torch.func transform, a torch mode, neo.nn.draws or autocast, and for tensors that require a
    gradient, it is `step` itself.

        meta_step = neo.capture(lambda params, task: neo.value_and_grad(loss, argnums=0)(params, task))

    Args:
        step: takes and returns pytrees of LiteTensors and torch.Tensors; anything else among the arguments is a
            constant, which must be hashable. It must be a pure function of them that reads no number back (no .item(),
            no `if` on a tensor, no boolean indexing): what Python decides, it decides once, at the recording. Tensors
            that it closes over are read anew at each replay, so that their changes in place are seen. Random draws go
            on from torch's generator at each replay.
    Returns: tensors of the caller's own: the next call leaves them alone.
    Raises: CaptureError where `step` waits for the GPU while it is recorded. On the CPU where it reads numbers, writes
        to its arguments or to tensors that it closes over, draws from a generator of its own, has tensors as keys of
        its result, or computes where a recording does not see it (other threads, kernels that torch does not know).
        And where a replay gives other numbers than the step, which is run beside the first replay, and beside one
        whenever a tensor among the arguments changes for the first time; later calls are then `step` itself.
    Cost: on a GPU, memory of one run, kept, for each recording. On the CPU two runs and some 50 ms for the first call,
        and copies of the arguments, each until it has changed once; a replay takes the memory of a run. The making of a
        long recording, of many tasks one after the other, scatters the C library's memory: record one task.
    """
    graphs: dict[Any, _Graph] = {}
    programs: dict[Any, list[Replayed]] = {}

    @functools.wraps(step)
    def call(*args: Any, **kwargs: Any) -> Any:
        given: Any = (args, kwargs)
        leaves: list[Any]
        leaves, spec = pytree.flatten(given, none_is_leaf=True)
        tensors: list[torch.Tensor] = []
        constants: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, LiteTensor | torch.Tensor):
                tensors.append(_raw(leaf))
                constants.append(type(leaf))
            else:
                constants.append(
                    (type(leaf), repr(leaf) if type(leaf) in (float, complex) else leaf)
                )  # 0.0 == -0.0
        if TapeContext.current() is not None or not tensors:
            return step(*args, **kwargs)
        if all(tensor.is_cuda for tensor in tensors):
            key = (spec, *constants, *map(_layout, tensors))
            if key not in graphs:
                graphs[key] = _Graph(step, leaves, spec)
            return graphs[key].replay(tensors)
        kept = programs.setdefault((spec, *constants, *_settings(tensors)), [])
        for program in kept:
            if program.takes(tensors):
                return program(tensors, lambda: step(*args, **kwargs))
        result = step(
            *args, **kwargs
        )  # before a recording caches are filled, and errors of the step's own raised
        if recordable(tensors):
            kept.append(Replayed(step, leaves, spec))
        return result

    return call  # type: ignore[return-value]


class _Graph:
    """One CUDA graph, the tensors that it reads, and those that it writes."""

    def __init__(self, step: Callable[..., Any], leaves: list[Any], spec: optree.PyTreeSpec):
        fixed = [_clone(leaf) if _is_tensor(leaf) else leaf for leaf in leaves]
        self.inputs = [_raw(leaf) for leaf in fixed if _is_tensor(leaf)]
        args, kwargs = pytree.unflatten(spec, fixed)
        here, apart = torch.cuda.current_stream(), torch.cuda.Stream()
        apart.wait_stream(here)
        with torch.cuda.stream(apart):
            for _ in range(WARM_UPS):
                step(*args, **kwargs)
        here.wait_stream(apart)
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph):
                out = step(*args, **kwargs)
        except RuntimeError as error:
            raise CaptureError(
                f"capture({_name(step)}): the step cannot be recorded: {error}. It must not wait "
                f"for the GPU: no .item(), no `if` on a tensor, no boolean indexing, no copies to the CPU."
            ) from error
        self.outputs, self.spec = pytree.flatten(out, none_is_leaf=True)

    def replay(self, tensors: list[torch.Tensor]) -> Any:
        for held, given in zip(self.inputs, tensors, strict=True):
            held.copy_(given)
        self.graph.replay()
        return pytree.unflatten(
            self.spec, [_clone(leaf) if _is_tensor(leaf) else leaf for leaf in self.outputs]
        )


def _name(step: Callable[..., Any]) -> str:
    return getattr(step, "__name__", str(step))


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor | torch.Tensor)


def _raw(leaf: Any) -> torch.Tensor:
    return leaf.data if isinstance(leaf, LiteTensor) else leaf


def _clone(leaf: Any) -> Any:
    return LiteTensor(leaf.data.clone()) if isinstance(leaf, LiteTensor) else leaf.clone()


def _layout(tensor: torch.Tensor) -> Any:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def _settings(tensors: list[torch.Tensor]) -> tuple[Any, ...]:
    """What else Python may decide by: which arguments are one, torch's settings and Neo's."""
    places = list(map(id, tensors))
    one = () if len(set(places)) == len(places) else tuple(map(places.index, places))
    block = draws.source()
    of_block = None if block is None else (block.drops(), block.seed is None)
    return one, torch.is_grad_enabled(), torch.get_default_dtype(), kernels.available(), of_block
