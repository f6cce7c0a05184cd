"""What a recording is made of, and what is asked of tensors and of the schemas of torch's ops for it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = [
    "NONE",
    "Entry",
    "Memory",
    "argument_named",
    "clear",
    "gives_views",
    "is_clear",
    "is_tensor_type",
    "is_written",
    "layout",
    "tensors",
]

NONE = -1  # no slot
BLANK = 0xA5  # every byte of what empty() gives, by which is seen who writes there


@dataclass
class Memory:
    """A storage that recorded tensors lie on."""

    slot: int  # of the first tensor on it
    dtype: torch.dtype
    own: bool  # made by a recorded call
    varies: bool  # depends on inputs, closed-over tensors or random draws
    whose: str = ""  # of one that is not the run's own
    blank: torch.UntypedStorage | None = (
        None  # itself, as long as nothing recorded has written to what empty() gave
    )


@dataclass
class Entry:
    """One recorded call."""

    call: Any  # of neo.kernels.replay
    name: str
    reads: list[int]
    writes: list[int] = field(default_factory=list)  # slots whose memory it changes
    out: list[int] = field(default_factory=list)  # a slot, or NONE, for each tensor that it gives
    kept: bool = False  # even if nobody reads what it gives
    resizes: bool = False  # changes the sizes of a tensor in place, as squeeze_ does
    view: bool = False  # gives views of what it reads, or that itself
    same: bool = False  # gives what it reads, as it was
    constant: bool = False  # the same at every replay, and small
    memories: set[int] = field(default_factory=set)  # those that it changes


def tensors(value: Any, undefined: bool = False) -> Iterator[Any]:
    """The tensors in tuples and lists; undefined: with None where an op gave nothing in place of one."""
    if isinstance(value, torch.Tensor) or (undefined and value is None):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item, undefined)


def layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Size, stride and offset on its storage."""
    return tensor.shape, tensor.stride(), tensor.storage_offset()


def clear(storage: torch.UntypedStorage) -> None:
    """Fill it with bytes by which is_clear() knows it."""
    ctypes.memset(storage.data_ptr(), BLANK, storage.nbytes())


def is_clear(storage: torch.UntypedStorage) -> bool:
    return ctypes.string_at(storage.data_ptr(), storage.nbytes()) == bytes([BLANK]) * storage.nbytes()


def argument_named(schema: Any, name: str) -> Any:
    return next(argument for argument in schema.arguments if argument.name == name)


def is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def gives_views(schema: Any) -> bool:
    return any(out.alias_info is not None and not out.alias_info.is_write for out in schema.returns)


def is_tensor_type(kind: Any) -> bool:
    while isinstance(kind, torch.ListType | torch.OptionalType):
        kind = kind.getElementType()
    return isinstance(kind, torch.TensorType)
