"""Reductions of what meets at a place: scatter_reduce and its relatives.

Sums and means are scattered sums. For products and extremes, all that meets at a place is laid side by side in a table,
filled up with a neutral number, and reduced along it: zeros and ties are those of prod, amax and amin, at every order.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from neo.autograd.tensor import LiteTensor
from neo.functions.extremes import amax, amin, prod
from neo.functions.registry import implements, lite, raw
from neo.guards import require

_ALONG = {"prod": (prod, 1.0), "amax": (amax, -math.inf), "amin": (amin, math.inf)}


@implements(torch.scatter_reduce)
def scatter_reduce(x, dim, index, src, reduce, *, include_self=True):
    """x with src brought together at index along dim: "sum", "mean", "prod", "amax" or "amin".

    include_self: x takes part where something is written; elsewhere x stays. Ties share the gradient. Cost of products
    and extremes: x as often as entries meet at the most crowded place.
    """
    if reduce not in ("sum", "mean", *_ALONG):
        raise RuntimeError(
            f"scatter_reduce: reduce argument must be either sum, prod, mean, amax or amin, got {reduce}"
        )
    if x.ndim == 0:
        return scatter_reduce(
            x.reshape((1,)), 0, index.reshape((-1,)), src.reshape((-1,)), reduce, include_self=include_self
        ).reshape(())
    index = raw(index)
    if tuple(src.shape) != tuple(index.shape):
        src = src[tuple(slice(n) for n in index.shape)]
    if reduce in ("sum", "mean"):
        base = x if include_self else torch.scatter(x, dim, index, 0.0)
        total = torch.scatter_add(base, dim, index, src)
        if reduce == "sum":
            return total
        ones = torch.ones(index.shape, dtype=x.dtype, device=x.device)
        start = torch.full(tuple(x.shape), float(include_self), dtype=x.dtype, device=x.device)
        return total / start.scatter_add(dim, index, ones).clamp(min=1)
    along, neutral = _ALONG[reduce]
    flat = _flat_places(tuple(x.shape), dim % x.ndim, index)
    table, met = _side_by_side(flat, src.reshape((-1,)), x.numel(), neutral)
    table, met = table.reshape((*x.shape, -1)), met.reshape(tuple(x.shape))
    mine = x if include_self else torch.where(met, neutral, x)
    return along(torch.cat([mine.unsqueeze(-1), table], -1), -1)


def _flat_places(shape: tuple[int, ...], dim: int, index: torch.Tensor) -> torch.Tensor:
    """Where in the flattened x each entry of index points, as a vector."""
    places = torch.arange(math.prod(shape), device=index.device).reshape(shape)
    part = places[tuple(slice(None) if d == dim else slice(n) for d, n in enumerate(index.shape))]
    return part.gather(dim, index).reshape(-1)


def _side_by_side(flat: torch.Tensor, values: Any, places: int, neutral: float) -> tuple[Any, torch.Tensor]:
    """(table (places, most that meet), mask (places,) of those where something does)."""
    order = torch.argsort(flat, stable=True)
    ordered = flat[order]
    rank = torch.empty_like(flat)
    rank[order] = torch.arange(flat.numel(), device=flat.device) - torch.searchsorted(ordered, ordered)
    width = int(rank.max()) + 1 if flat.numel() else 0
    empty = torch.full((places * width,), neutral, dtype=values.dtype, device=flat.device)
    met = torch.zeros(places, dtype=torch.bool, device=flat.device)
    met[flat] = True
    return torch.scatter(empty, 0, flat * width + rank, values).reshape((places, width)), met


@implements(torch.index_reduce)
def index_reduce(x, dim, index, source, reduce, *, include_self=True):
    """scatter_reduce of whole slices: the slices of source brought together at index along dim."""
    if x.ndim == 0:
        x, source = x.reshape((1,)), source.reshape((1,))
        return index_reduce(x, 0, index, source, reduce, include_self=include_self).reshape(())
    dim = dim % x.ndim
    wide = raw(index).reshape((-1,) + (1,) * (x.ndim - 1 - dim)).expand(tuple(source.shape))
    return scatter_reduce(x, dim, wide, source, reduce, include_self=include_self)


# --- writing slices and entries ------------------------------------------------------------------------------


@implements(torch.index_copy)
def index_copy(x, dim, index, source):
    """x with the slices of source written at index along dim; what several write to one place is not defined."""
    if x.ndim == 0:
        return index_copy(x.reshape((1,)), 0, index.reshape((-1,)), source.reshape((-1,))).reshape(())
    dim = dim % x.ndim
    source = source.reshape((1,)) if source.ndim == 0 else source
    wide = raw(index).reshape((-1,) + (1,) * (x.ndim - 1 - dim)).expand(tuple(source.shape))
    return torch.scatter(x, dim, wide, source)


@implements(torch.index_fill)
def index_fill(x, dim, index, value):
    """x with a number or 0-dim tensor written at index along dim."""
    if x.ndim == 0:
        return index_fill(x.reshape((1,)), 0, index, value).reshape(())
    dim = dim % x.ndim
    mask = torch.zeros(x.shape[dim], dtype=torch.bool, device=x.device).index_fill(
        0, raw(index).reshape(-1), True
    )
    return torch.masked_fill(x, mask.reshape((-1,) + (1,) * (x.ndim - 1 - dim)), value)


@implements(torch.put)
def put(x, index, source, accumulate=False):
    """x with source written, or added, at the places that index names in the flattened x."""
    flat = torch.index_put(x.reshape((-1,)), (raw(index).reshape(-1),), source.reshape((-1,)), accumulate)
    return flat.reshape(tuple(x.shape))


@implements(torch.masked_scatter)
def masked_scatter(x, mask, source):
    """x with the entries of source, one after the other, where the mask holds."""
    if mask.dtype is not torch.bool:
        raise RuntimeError(
            f"masked_scatter: only supports boolean masks, but got mask with dtype {mask.dtype}"
        )
    x, mask = torch.broadcast_tensors(x, mask)
    mask = raw(mask)
    available = source.numel()
    require(
        mask.sum() <= available,
        lambda: RuntimeError(
            f"masked_scatter: expected source to have at least as many elements as mask has ones, got {available}"
        ),
    )
    if not available or not mask.numel():
        return x.clone()
    order = (mask.reshape(-1).long().cumsum(0) - 1).clamp(0, available - 1).reshape(mask.shape)
    return torch.where(mask, torch.take(source, order), x)


@implements(torch.fill)
def fill(x, value):
    """A number or 0-dim tensor in the shape of x, which has no part in it."""
    if isinstance(value, int | float):
        return torch.full_like(x, value)
    value = lite(value) if isinstance(x, LiteTensor) else value
    return value.to(x.dtype).expand(tuple(x.shape))


@implements(torch._unsafe_masked_index)
def unsafe_masked_index(x, mask, indices, fill):
    """x[indices] where the mask holds, `fill` elsewhere, where indices may be anything."""
    places = [
        raw(i).clamp(0, n - 1) if i is not None else slice(None)
        for i, n in zip(indices, x.shape, strict=False)
    ]
    return torch.where(mask, x[tuple(places)], fill)


@implements(torch._unsafe_masked_index_put_accumulate)
def unsafe_masked_index_put_accumulate(x, mask, indices, values):
    """x with values added at indices where the mask holds."""
    places = [
        raw(i).clamp(-n, n - 1) if i is not None else torch.arange(n, device=x.device)
        for i, n in zip(indices, x.shape, strict=False)
    ]
    return torch.index_put(x, tuple(places), torch.where(mask, values, 0.0), True)


@implements(torch.renorm, scalars=("p", "maxnorm"))
def renorm(x, p, dim, maxnorm):
    """x with each slice of dim scaled down to p-norm maxnorm where it is longer."""
    dim = dim % x.ndim
    rest = [d for d in range(x.ndim) if d != dim]
    zero = (raw(x) == 0).all(rest, keepdim=True)  # short, and kept from the kink that the norm has there
    size = torch.linalg.vector_norm(torch.where(zero, 1.0, x), p, rest, True)
    long = (raw(size) > raw(maxnorm)) & ~zero
    return x * torch.where(long, maxnorm / (size + 1e-7), 1.0)
