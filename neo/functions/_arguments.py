"""Reading torch's arguments: dims given as numbers, tuples or varargs, counted from either end; indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from neo.autograd.tensor import LiteTensor
from neo.functions._values import raw

__all__ = ["dim_tuple", "given_dims", "named", "plain_index", "spread", "wrap_dim"]

named: Any = torch.return_types  # whose stubs know only some of the named tuples


def wrap_dim(dim: int, ndim: int) -> int:
    """A dimension counted from the front. Raises torch's IndexError beyond what a tensor of ndim has (0-dim: as 1)."""
    count = max(ndim, 1)
    if not -count <= dim < count:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-count}, {count - 1}], but got {dim})"
        )
    return dim % count


def dim_tuple(dim: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """The dims to reduce, from the front; all of them for None and for (), as torch has it."""
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return tuple(range(ndim))
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if ndim == 0:
        for d in dims:
            wrap_dim(d, 0)
        return ()
    dims = tuple(wrap_dim(d, ndim) for d in dims)
    if len(set(dims)) != len(dims):
        raise RuntimeError(
            f"dim {next(d for d in dims if dims.count(d) > 1)} appears multiple times in the list of dims"
        )
    return dims


def given_dims(args: tuple[Any, ...], dim: Any, keepdim: bool) -> tuple[Any, bool]:
    """(dim, keepdim) of a reduction called as f(x, 0, 1), f(x, (0, 1)), f(x, 0, True) or f(x, dim=0)."""
    if args and isinstance(args[-1], bool):
        keepdim, args = args[-1], args[:-1]
    if not args:
        return dim, keepdim
    return (args[0] if len(args) == 1 else args), keepdim


def spread(args: tuple[Any, ...], whole: Any = None) -> tuple[int, ...]:
    """A shape or list of dims given as f(x, 2, 3), f(x, (2, 3)) or, under its keyword, as `whole`."""
    if not args:
        return tuple(whole) if not isinstance(whole, int) else (whole,)
    if len(args) == 1 and not isinstance(args[0], int) and hasattr(args[0], "__iter__"):
        return tuple(args[0])
    return tuple(args)


def plain_index(entry: Any) -> Any:
    """One entry of an index: lists and arrays as torch tensors, LiteTensors as what is behind them."""
    if isinstance(entry, LiteTensor):
        return entry.data
    if isinstance(entry, np.ndarray):
        return torch.from_numpy(np.array(entry))
    if isinstance(entry, np.integer):
        return int(entry)
    if isinstance(entry, list | tuple | range):
        entry = torch.tensor(raw(list(entry)), device="cpu")
        return entry.long() if entry.numel() == 0 else entry
    if isinstance(entry, slice):
        return slice(*(None if e is None else int(e) for e in (entry.start, entry.stop, entry.step)))
    return entry
