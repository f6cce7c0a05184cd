"""Kernels that take stacks of tensors, called on the whole batch of a vmap at once.

An op of torch's inside vmap takes some ten times as long to be called as outside. A kernel that takes a stack, with one
leading dim more, is given what lies behind the slices, outside of vmap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from neo.autograd._batched import Batch, in_transform, is_batched, is_wrapped, outside_vmap
from neo.kernels import direct

__all__ = ["on_stacks"]


def _on_stacks(call: Callable[..., Any], stacked: Callable[..., Any], *args: Any) -> Any:
    if not in_transform():
        return call(*args)
    tensors = list(_tensors(args))
    slices = [tensor for tensor in tensors if is_batched(tensor)]
    batch = Batch.of(slices[0]) if slices else None
    if batch is None or not batch.holds(slices):
        return call(*args)
    if any(is_wrapped(tensor) for tensor in tensors if not is_batched(tensor)):
        return call(*args)
    size = batch.physical(slices[0]).shape[0]

    def whole(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return batch.physical(value) if is_batched(value) else value.expand((size, *value.shape))
        return tuple([whole(item) for item in value]) if type(value) is tuple else value

    given = [whole(value) for value in args]
    with outside_vmap():
        out = stacked(*given)
    return _sliced(batch, out)


def _sliced(batch: Batch, out: Any) -> Any:
    if isinstance(out, torch.Tensor):
        return batch.slice(out)
    return tuple([_sliced(batch, one) for one in out]) if isinstance(out, tuple | list) else out


def _tensors(values: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif type(value) is tuple:
            yield from _tensors(value)


on_stacks: Callable[..., Any] = direct.on_stacks or _on_stacks
"""(call, stacked, *args) → call(*args); inside vmap stacked(*args) with the tensors of all examples in place of slices.

What is one for all examples is repeated, without a copy. Inside vmap, too, call itself is made where nothing is a
slice, or something is one of two vmaps or of another transform. stacked gives tensors with the examples first, tuples
and lists of those, or None.
"""
