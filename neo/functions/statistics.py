"""Order statistics and correlations."""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd.policy import function
from neo.functions.extremes import ExtremeOver, picked
from neo.functions.registry import copies, implements, raw
from neo.guards import require


class MiddleNumber(ExtremeOver):
    """y = the middle of all x that are numbers;  x̄ = ȳ / k at the k entries that equal y."""

    @staticmethod
    def pick(x, dims, keepdim):
        return torch.nanmedian(x)


_nanmedian = function(MiddleNumber, "nanmedian")


@implements(torch.nanmedian)
@copies
def nanmedian(x, dim=None, keepdim=False):
    """median over the entries that are numbers, ties sharing the gradient; with dim (values, indices)."""
    if dim is None:
        return _nanmedian(x, tuple(range(x.ndim)), False)
    return picked(torch.nanmedian, x, dim, keepdim)


@implements(torch.mode)
def mode(x, dim=-1, keepdim=False):
    """(values, indices): the commonest entry along dim; the gradient goes to the place that indices name."""
    return picked(torch.mode, x, dim, keepdim)


@implements(torch.quantile)
def quantile(x, q, dim=None, keepdim=False, *, interpolation="linear"):
    """The q-quantiles along dim, or of all entries; q a number or a vector, whose results make a new first dim.

    interpolation between neighbours in order: "linear", "lower", "higher", "midpoint", "nearest". nan spreads.
    """
    return _quantile(x, q, dim, keepdim, interpolation, False)


@implements(torch.nanquantile)
def nanquantile(x, q, dim=None, keepdim=False, *, interpolation="linear"):
    """quantile over the entries that are numbers."""
    return _quantile(x, q, dim, keepdim, interpolation, True)


def _quantile(x: Any, q: Any, dim: int | None, keepdim: bool, interpolation: str, skip: bool) -> Any:
    name = "nanquantile" if skip else "quantile"
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise RuntimeError(
            f"{name}: interpolation must be one of linear, lower, higher, midpoint or nearest, but got {interpolation}"
        )
    if isinstance(q, int | float):
        q = torch.tensor(q, dtype=x.dtype, device=x.device)
    if q.ndim > 1:
        raise RuntimeError(f"{name}: q must be a scalar or 1D tensor, got {q.ndim}D")
    require(
        ~((raw(q) < 0) | (raw(q) > 1)).any(),
        lambda: RuntimeError(f"{name}: q values must be in the range [0, 1]"),
    )
    single, ndim = q.ndim == 0, x.ndim
    shape = (
        [1] * ndim if dim is None else [1 if d == dim % max(ndim, 1) else n for d, n in enumerate(x.shape)]
    )
    rows = x.reshape((-1,)) if dim is None or not ndim else x.movedim(dim, -1)
    ordered = torch.sort(rows, -1).values
    missing = torch.isnan(raw(rows))
    length = rows.shape[-1]
    last = (~missing).sum(-1, keepdim=True).sub(1).clamp(min=0) if skip else length - 1
    ranks = q.reshape((-1,)) * last  # (.., number of q)
    if not skip:  # nan are last in order
        ranks = torch.where(missing.any(-1, keepdim=True), float(length - 1), ranks)
    if interpolation == "lower":
        ranks = torch.floor(ranks)
    elif interpolation == "higher":
        ranks = torch.ceil(ranks)
    elif interpolation == "nearest":
        ranks = torch.round(ranks)
    low = raw(ranks).floor().long().expand((*rows.shape[:-1], ranks.shape[-1]))
    values = torch.gather(ordered, -1, low)
    if interpolation in ("linear", "midpoint"):
        high = raw(ranks).ceil().long().expand(low.shape)
        weight = ranks - torch.floor(ranks) if interpolation == "linear" else (raw(ranks) % 1 > 0) * 0.5
        upper = torch.gather(ordered, -1, high)
        values = torch.lerp(values, upper, weight.to(x.dtype).expand(tuple(low.shape)))
    if single:
        values = values.squeeze(-1)
        return values.reshape(tuple(shape)) if keepdim else values
    values = values.movedim(-1, 0)
    return values.reshape((q.shape[0], *shape)) if keepdim else values


@implements(torch.cov)
def cov(x, *, correction=1, fweights=None, aweights=None):
    """Covariances of the variables in the rows of x (variables, observations) → (variables, variables).

    fweights: how often each observation counts; aweights: its importance. The divisor is that of torch and numpy.
    """
    if x.ndim > 2:
        raise RuntimeError(
            f"cov: expected input to have two or fewer dimensions but got an input with {x.ndim} dimensions"
        )
    rows = x if x.ndim == 2 else x.reshape((1, -1))
    for key, weight, kind in (("fweights", fweights, "integral"), ("aweights", aweights, "floating point")):
        if weight is None:
            continue
        if weight.ndim > 1 or weight.numel() != rows.shape[1]:
            raise RuntimeError(
                f"cov: expected {key} to be one number for each of the {rows.shape[1]} observations, got shape "
                f"{tuple(weight.shape)}"
            )
        if weight.is_floating_point() != (kind == "floating point"):
            raise RuntimeError(
                f"cov: expected {key} to have {kind} dtype but got {key} with {weight.dtype} dtype"
            )
        if bool((raw(weight) < 0).any()):
            raise RuntimeError(f"cov: {key} cannot be negative")
    weights = None
    if fweights is not None:
        weights = fweights.to(x.dtype) if aweights is None else fweights * aweights
    elif aweights is not None:
        weights = aweights
    n = rows.shape[1]
    total: Any = n if weights is None else weights.sum()
    mean = rows.mean(1, True) if weights is None else (rows * weights).sum(1, True) / total
    divisor: Any = total - correction
    if weights is not None and aweights is not None and correction:
        divisor = total - correction * (weights * aweights).sum() / total
    number = isinstance(divisor, int | float)
    divisor = float(max(divisor, 0)) if number else torch.clamp_min(divisor, 0.0)
    away = rows - mean
    weighted = away if weights is None else away * weights
    result = torch.matmul(weighted, away.transpose(0, 1)) / divisor
    return result if x.ndim == 2 and rows.shape[0] != 1 else result.squeeze()


@implements(torch.corrcoef)
def corrcoef(x):
    """Correlations of the variables in the rows of x (variables, observations), brought into [−1, 1]."""
    c = cov(x)
    if c.ndim == 0:
        return c / c
    size = torch.sqrt(torch.diagonal(c))
    return torch.clamp(c / size.unsqueeze(1) / size, -1, 1)
