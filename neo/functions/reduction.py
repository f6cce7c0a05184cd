"""Sums, means and spreads over dims. dim is an int, a tuple, or None for all dims; negative dims count from the end."""

from __future__ import annotations

import math
from typing import Any

import torch

from neo.autograd.policy import Policy, function
from neo.functions._arguments import dim_tuple, given_dims
from neo.functions._kinks import kinked
from neo.functions.elementwise import is_number
from neo.functions.registry import implements, raw


class Reduction(Policy):
    """A function of one tensor that folds dims away."""

    verified = True


def spread_back(y: Any, shape: tuple[int, ...], dims: tuple[int, ...], keepdim: bool) -> Any:
    """A reduced tensor as a tensor that broadcasts against the unreduced one: sizes 1 where dims were folded."""
    if keepdim or len(dims) == len(shape):
        return y
    return y.reshape(tuple(1 if i in dims else size for i, size in enumerate(shape)))


# --- sums ----------------------------------------------------------------------------------------------------


class Sum(Reduction):
    """y = Σ x;  x̄ = ȳ at every entry summed."""

    def forward(self, x, dims, keepdim, dtype):
        self.ctx.save(x.shape, x.dtype, dims, keepdim, dtype)
        return torch.sum(x, dims, keepdim, dtype=dtype) if dims else x.to(dtype or _sum_dtype(x), copy=True)

    def backward(self, y_bar):
        shape, dtype, dims, keepdim, _ = self.ctx.release
        if y_bar.dtype is not dtype:
            y_bar = y_bar.to(dtype)
        return spread_back(y_bar, shape, dims, keepdim).expand(shape)

    def jvp(self, x_dot):
        _, _, dims, keepdim, dtype = self.ctx.release
        return summed(x_dot, dims, keepdim, dtype)


class Mean(Reduction):
    """y = Σ x / n, n the number of entries averaged;  x̄ = ȳ / n at each of them."""

    def forward(self, x, dims, keepdim, dtype):
        self.ctx.save(x.shape, x.dtype, dims, keepdim, dtype)
        return torch.mean(x, dims, keepdim, dtype=dtype)

    def backward(self, y_bar):
        shape, dtype, dims, keepdim, _ = self.ctx.release
        if y_bar.dtype is not dtype:
            y_bar = y_bar.to(dtype)
        n = math.prod([shape[d] for d in dims])
        y_bar = y_bar / n if n else y_bar * torch.nan
        return spread_back(y_bar, shape, dims, keepdim).expand(shape)

    def jvp(self, x_dot):
        _, _, dims, keepdim, dtype = self.ctx.release
        return averaged(x_dot, dims, keepdim, dtype)


def _sum_dtype(x: torch.Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.int64


summed, averaged = function(Sum, "sum"), function(Mean, "mean")


@implements(torch.sum)
def sum(x, *dims, dim=None, keepdim=False, dtype=None):
    """Σ x over dims: sum(x), sum(x, 0), sum(x, 0, 1), sum(x, (0, 1), True)."""
    dim, keepdim = given_dims(dims, dim, keepdim)
    return summed(x, dim_tuple(dim, x.ndim), keepdim, dtype)


@implements(torch.mean)
def mean(x, *dims, dim=None, keepdim=False, dtype=None):
    """Σ x / n over dims."""
    dim, keepdim = given_dims(dims, dim, keepdim)
    return averaged(x, dim_tuple(dim, x.ndim), keepdim, dtype)


@implements(torch.nansum)
def nansum(x, *dims, dim=None, keepdim=False, dtype=None):
    """Σ x over the entries that are numbers."""
    dim, keepdim = given_dims(dims, dim, keepdim)
    return sum(torch.where(torch.isnan(x), 0.0, x), dim=dim, keepdim=keepdim, dtype=dtype)


@implements(torch.nanmean)
def nanmean(x, *dims, dim=None, keepdim=False, dtype=None):
    """Σ x / n over the entries that are numbers."""
    dim, keepdim = given_dims(dims, dim, keepdim)
    count = torch.sum(~torch.isnan(raw(x)), dim_tuple(dim, x.ndim), keepdim)
    return nansum(x, dim=dim, keepdim=keepdim, dtype=dtype) / count


# --- spread --------------------------------------------------------------------------------------------------


@implements(torch.var, scalars=("correction",))
def var(x, *dims, dim=None, unbiased=None, correction=None, keepdim=False):
    """Σ (x − mean x)² / (n − correction); correction is 1 unless said otherwise."""
    return var_mean(x, *dims, dim=dim, unbiased=unbiased, correction=correction, keepdim=keepdim)[0]


@implements(torch.var_mean, scalars=("correction",))
def var_mean(x, *dims, dim=None, unbiased=None, correction=None, keepdim=False):
    """(variance, mean) over dims; the positional form is (x, dim, unbiased, keepdim) or (x, unbiased)."""
    if dims and isinstance(dims[0], bool):
        unbiased, dims = dims[0], dims[1:]
    elif dims:
        dim = dims[0]
        unbiased = dims[1] if len(dims) > 1 else unbiased
        keepdim = dims[2] if len(dims) > 2 else keepdim
    if correction is None:
        correction = 0 if unbiased is False else 1
    over = dim_tuple(dim, x.ndim)
    shape = tuple(x.shape)
    centre = averaged(x, over, True, None)
    away = x - centre
    n = math.prod([shape[d] for d in over])
    freedom = n - correction
    scale = float(max(freedom, 0)) if is_number(freedom) else torch.clamp(freedom, min=0.0)
    spread = summed(away * away, over, keepdim, None) / scale
    return spread, centre if keepdim else centre.reshape(
        tuple(s for i, s in enumerate(shape) if i not in over)
    )


@implements(torch.std, scalars=("correction",))
def std(x, *dims, dim=None, unbiased=None, correction=None, keepdim=False):
    """√variance; its gradient at a variance of 0 is 0."""
    return _root(var(x, *dims, dim=dim, unbiased=unbiased, correction=correction, keepdim=keepdim))


@implements(torch.std_mean, scalars=("correction",))
def std_mean(x, *dims, dim=None, unbiased=None, correction=None, keepdim=False):
    """(standard deviation, mean) over dims."""
    spread, centre = var_mean(x, *dims, dim=dim, unbiased=unbiased, correction=correction, keepdim=keepdim)
    return _root(spread), centre


def _root(x: Any) -> Any:
    """√x, with gradient 0 where x = 0, which has no derivative there."""
    flat = raw(x) == 0
    x = kinked(x, flat)
    return torch.where(flat, 0.0, torch.sqrt(torch.where(flat, 1.0, x)))
