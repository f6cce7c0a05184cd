"""capture: a step recorded once as a CUDA graph and replayed, so that a GPU waits for no Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import optree
import torch

from neo import pytree
from neo.autograd import TapeContext
from neo.autograd.tensor import LiteTensor
from neo.errors import CaptureError

__all__ = ["capture"]

Step = TypeVar("Step", bound=Callable[..., Any])

WARM_UPS = 3  # runs before the recording, in which libraries choose kernels and allocate what they keep


def capture(step: Step) -> Step:
    """`step` with the same arguments and results, on a GPU as one launch in place of one a kernel.

    The first call with tensors on a GPU runs `step` a few times and records the kernels of one run in a CUDA graph;
    later calls copy their tensors into the recording's and replay it. A call with other shapes, dtypes, structure or
    constants records anew, and both recordings are kept. On the CPU, and under an open session (whose tape a replay
    would not reach), it is `step` itself.

        meta_step = neo.capture(lambda params, task: neo.value_and_grad(loss, argnums=0)(params, task))

    Args:
        step: takes and returns pytrees of LiteTensors and torch.Tensors; anything else among the arguments is a
            constant, which must be hashable. It must be a pure function of them that reads no number back (no .item(),
            no `if` on a tensor, no boolean indexing): what Python decides, it decides once, at the recording. Random
            draws go on from torch's generator at each replay.
    Returns: tensors of the caller's own: the next call leaves them alone.
    Raises: CaptureError where `step` waits for the GPU while it is recorded.
    Cost: memory of one run, kept, for each recording.
    """
    recordings: dict[Any, _Recording] = {}

    @functools.wraps(step)
    def call(*args: Any, **kwargs: Any) -> Any:
        given: Any = (args, kwargs)
        leaves: list[Any]
        leaves, spec = pytree.flatten(given, none_is_leaf=True)
        tensors = [_raw(leaf) for leaf in leaves if _is_tensor(leaf)]
        on_gpu = bool(tensors) and all(tensor.is_cuda for tensor in tensors)
        if not on_gpu or TapeContext.current() is not None:
            return step(*args, **kwargs)
        key = (spec, tuple(_signature(leaf) for leaf in leaves))
        recording = recordings.get(key)
        if recording is None:
            recording = recordings[key] = _Recording(step, leaves, spec)
        return recording.replay(tensors)

    return call  # type: ignore[return-value]


class _Recording:
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
                f"capture({getattr(step, '__name__', step)}): the step cannot be recorded: {error}. It must not wait "
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


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor | torch.Tensor)


def _raw(leaf: Any) -> torch.Tensor:
    return leaf.data if isinstance(leaf, LiteTensor) else leaf


def _clone(leaf: Any) -> Any:
    return LiteTensor(leaf.data.clone()) if isinstance(leaf, LiteTensor) else leaf.clone()


def _signature(leaf: Any) -> Any:
    """What a recording depends on: of a tensor its layout, of anything else its value."""
    if not _is_tensor(leaf):
        return type(leaf), leaf
    tensor = _raw(leaf)
    return type(leaf), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device
