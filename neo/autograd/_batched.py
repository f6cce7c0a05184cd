"""What may be asked of tensors under vmap, where a tensor stands for a whole batch of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._functorch.vmap import lazy_load_decompositions

from neo.kernels import direct

__all__ = [
    "Batch",
    "agree",
    "any_batched",
    "in_transform",
    "in_vmap",
    "is_batched",
    "is_sliced_here",
    "is_wrapped",
    "one_example",
    "ones_like",
    "outside_vmap",
    "sliced_calls",
]

ones_like = direct.ones_like
"""torch.ones_like, the cotangent that a session begins with. A scalar's, inside vmap, is one for all examples."""


def is_batched(tensor: torch.Tensor) -> bool:
    """Is this one slice of a batch, inside torch.func.vmap? Then its numbers cannot be read, and layouts not asked."""
    return _functorch.is_batchedtensor(tensor)


def is_sliced_here(tensor: torch.Tensor) -> bool:
    """Does this tensor depend on what the innermost open vmap slices? (Outer vmaps may slice it or not.)"""
    return (
        _functorch.is_batchedtensor(tensor)
        and _functorch.maybe_get_level(tensor) == _functorch.maybe_current_level()
    )


def in_transform() -> bool:
    """Is a transform of torch.func open, vmap among them?"""
    return _functorch.peek_interpreter_stack() is not None


def is_wrapped(tensor: torch.Tensor) -> bool:
    """Does this tensor belong to a transform of torch.func, be it vmap or another?"""
    return _functorch.is_functorch_wrapped_tensor(tensor)


def any_batched(*tensors: torch.Tensor | None) -> bool:
    if _functorch.peek_interpreter_stack() is None:  # no transform is open: spares looking at each
        return False
    return any(tensor is not None and _functorch.is_batchedtensor(tensor) for tensor in tensors)


def sliced_calls(
    fn: Callable[..., tuple[torch.Tensor, ...]], wholes: Sequence[tuple[torch.Tensor, Any]], randomness: str
) -> list[torch.Tensor]:
    """torch.func.vmap(fn) of (tensor, dim) each, as it is of tensors alone: each output with the examples first.

    Without what torch does to read trees and dims, a quarter of the time of a small function.
    """
    lazy_load_decompositions()
    size = wholes[0][0].shape[wholes[0][1]]
    level = _functorch._vmap_increment_nesting(size, randomness)
    try:
        out = fn(*[_functorch._add_batch_dim(tensor, dim, level) for tensor, dim in wholes])
        return [_functorch._remove_batch_dim(one, level, size, 0) for one in out]
    finally:
        _functorch._vmap_decrement_nesting()


def outside_vmap() -> AbstractContextManager[Any]:
    """Inside, no vmap is open, and tensors of a batch must not be used, except by `one_example`."""
    return temporarily_clear_interpreter_stack()


def one_example(tensor: torch.Tensor) -> torch.Tensor | None:
    """The first example of a batch, and of every batch around, as a plain tensor; None where a batch is empty."""
    if not _functorch.is_batchedtensor(tensor):
        return tensor
    inner = one_example(_functorch.get_unwrapped(tensor))
    dim = _functorch.maybe_get_bdim(tensor)
    return None if inner is None or inner.shape[dim] == 0 else inner.select(dim, 0)


def agree(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Whether two tensors of one shape agree up to rounding, NaN being equal to NaN: a 0-dim tensor of truth."""
    # torch.isclose, spelled out, for it has no batched form
    return ((a == b) | ((a - b).abs() <= 1e-8 + 1e-5 * b.abs()) | (a.isnan() & b.isnan())).all()


def in_vmap() -> bool:
    """Is this code run by torch.func.vmap (or another transform of torch.func)?"""
    return _functorch.peek_interpreter_stack() is not None


class Batch:
    """What tensors that lie on one memory are slices of: the batch of the vmap that they are in, or nothing."""

    def __init__(self, level: int | None):
        self.level = level

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Batch:
        return cls(_functorch.maybe_get_level(tensor) if is_batched(tensor) else None)

    def holds(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Are all of them slices of this batch, and of no other around it?"""
        return all(
            (_functorch.maybe_get_level(tensor) if is_batched(tensor) else None) == self.level
            and not _functorch.is_functorch_wrapped_tensor(self.physical(tensor))
            for tensor in tensors
        )

    def takes(self, tensor: torch.Tensor) -> bool:
        """Is it a slice of this batch, or the same for every example?"""
        return not is_batched(tensor) or self.holds([tensor])

    def physical(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself, or, inside vmap, those of all examples, which come first; what is one for all as it is."""
        if not is_batched(tensor):
            return tensor
        return _functorch.get_unwrapped(tensor).movedim(_functorch.maybe_get_bdim(tensor), 0)

    def slice(self, physical: torch.Tensor) -> torch.Tensor:
        """physical() undone."""
        return physical if self.level is None else _functorch._add_batch_dim(physical, 0, self.level)
