"""Largest, smallest, middle, in order. Values are differentiable, places are constants.

Over one dim the gradient goes to the entry that was picked; over all of them, and in amax and amin, ties share it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from neo.autograd.policy import function
from neo.autograd.tensor import LiteTensor
from neo.errors import NumberError
from neo.functions._arguments import dim_tuple, wrap_dim
from neo.functions._kinks import kinked, without_slope
from neo.functions.elementwise import is_number
from neo.functions.reduction import Reduction, spread_back, summed
from neo.functions.registry import copies, implements, lite, raw
from neo.guards import known


class ExtremeOver(Reduction):
    """y = the extreme x over dims;  x̄ = ȳ / k at the k entries that equal y."""

    pick: Any

    def forward(self, x, dims, keepdim):
        if x.numel() == 0 and not all(x.shape[d] for d in dims):
            raise RuntimeError(f"expected entries to choose from, got a tensor of shape {tuple(x.shape)}")
        y = self.pick(x, dims, keepdim) if x.ndim else x.clone()
        ties = x == (
            y if keepdim or not x.ndim else y.reshape([1 if i in dims else n for i, n in enumerate(x.shape)])
        )
        share = self.ctx.constant(ties.to(x.dtype) / ties.sum(dims, True))
        self.ctx.save(share, tuple(x.shape), dims, keepdim)
        return y

    def backward(self, y_bar):
        share, shape, dims, keepdim = self.ctx.release
        return spread_back(y_bar, shape, dims, keepdim) * share

    def jvp(self, x_dot):
        share, _, dims, keepdim = self.ctx.release
        return summed(x_dot * share, dims, keepdim, None)


class Amax(ExtremeOver):
    """y = max x over dims;  x̄ = ȳ / k at the k entries that equal y."""

    pick = staticmethod(torch.amax)


class Amin(ExtremeOver):
    """y = min x over dims;  x̄ = ȳ / k at the k entries that equal y."""

    pick = staticmethod(torch.amin)


class Middle(ExtremeOver):
    """y = the middle x of all;  x̄ = ȳ / k at the k entries that equal y."""

    @staticmethod
    def pick(x, dims, keepdim):
        return torch.median(x)


_amax, _amin, _median = function(Amax, "amax"), function(Amin, "amin"), function(Middle, "median")


@implements(torch.amax)
def amax(x, dim=(), keepdim=False):
    """max x over dims; ties share the gradient."""
    return _amax(x, dim_tuple(dim, x.ndim), keepdim)


@implements(torch.amin)
def amin(x, dim=(), keepdim=False):
    """min x over dims; ties share the gradient."""
    return _amin(x, dim_tuple(dim, x.ndim), keepdim)


@implements(torch.aminmax)
def aminmax(x, *, dim=None, keepdim=False):
    """(min x, max x) over a dim or all."""
    return torch.return_types.aminmax((amin(x, dim, keepdim), amax(x, dim, keepdim)))


# --- over one dim, with places -------------------------------------------------------------------------------


def _is_dim(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@implements(torch.max, tensors=("dim",))
def max(x, dim=None, keepdim=False):
    """max(x): the largest entry. max(x, dim): (values, indices). max(x, y): the larger of two tensors."""
    if dim is None:
        return _amax(x, tuple(range(x.ndim)), False)
    return picked(torch.max, x, dim, keepdim) if _is_dim(dim) else torch.maximum(x, dim)


@implements(torch.min, tensors=("dim",))
def min(x, dim=None, keepdim=False):
    """min(x): the smallest entry. min(x, dim): (values, indices). min(x, y): the smaller of two tensors."""
    if dim is None:
        return _amin(x, tuple(range(x.ndim)), False)
    return picked(torch.min, x, dim, keepdim) if _is_dim(dim) else torch.minimum(x, dim)


def picked(pick: Any, x: Any, dim: int, keepdim: bool) -> Any:
    """(values, indices) of a torch function that picks one entry along dim."""
    found = pick(raw(x), dim, keepdim=True)
    return values_at(type(found), x, dim, found.indices, keepdim)


def values_at(kind: Any, x: Any, dim: int, places: torch.Tensor, keepdim: bool = True) -> Any:
    values = torch.gather(x, dim, places)
    if not keepdim and x.ndim:
        values, places = values.squeeze(dim), places.squeeze(dim)
    return kind((values, lite(places) if isinstance(x, LiteTensor) else places))


@implements(torch.median)
@copies
def median(x, dim=None, keepdim=False):
    """The middle entry, the lower of the two for even counts, ties sharing the gradient; with dim (values, indices)."""
    if dim is None:
        return _median(x, tuple(range(x.ndim)), False)
    return picked(torch.median, x, dim, keepdim)


@implements(torch.kthvalue, numbers=("k",))
def kthvalue(x, k, dim=-1, keepdim=False):
    """(values, indices): the k-th smallest along dim."""
    return picked(lambda data, d, keepdim: torch.kthvalue(data, k, d, keepdim), x, dim, keepdim)


@implements(torch.sort)
def sort(x, dim=-1, descending=False, stable=False):
    """(values, indices): x in order along dim."""
    found = torch.sort(raw(x), dim=dim, descending=descending, stable=bool(stable))
    return values_at(torch.return_types.sort, x, dim, found.indices)


@implements(torch.msort)
def msort(x):
    """x in order along dim 0."""
    return sort(x, 0)[0]


@implements(torch.topk, numbers=("k",))
def topk(x, k, dim=-1, largest=True, sorted=True):
    """(values, indices): the k largest or smallest along dim."""
    found = torch.topk(raw(x), k, dim, largest, sorted)
    return values_at(torch.return_types.topk, x, dim, found.indices)


# --- along a dim ---------------------------------------------------------------------------------------------


class Cumsum(Reduction):
    """yᵢ = Σ xⱼ for j ≤ i along dim;  x̄ᵢ = Σ ȳⱼ for j ≥ i."""

    def forward(self, x, dim, dtype=None):
        self.ctx.save(dim, x.dtype, dtype)
        return torch.cumsum(x, dim, dtype=dtype)

    def backward(self, y_bar):
        dim, dtype, _ = self.ctx.release
        if y_bar.ndim == 0:
            return y_bar.to(dtype)
        return torch.cumsum(y_bar.flip(dim), dim).flip(dim).to(dtype)

    def jvp(self, x_dot):
        dim, _, dtype = self.ctx.release
        return torch.cumsum(x_dot, dim, dtype=dtype)


implements(torch.cumsum)(Cumsum)


@implements(torch.cumprod)
@copies
def cumprod(x, dim, dtype=None):
    """yᵢ = Π xⱼ for j ≤ i along dim, exact also at zeros. Cost: n², as every product stands alone."""
    x = x if dtype is None else x.to(dtype)
    if x.ndim == 0 or x.shape[dim] == 0:
        return x
    dim = wrap_dim(dim, x.ndim)
    parts = torch.unbind(x, dim)
    products = [parts[0]]
    for part in parts[1:]:
        products.append(products[-1] * part)
    return torch.stack(products, dim)


class Prod(Reduction):
    """y = Π x along a dim;  x̄ᵢ = ȳ Π xⱼ for j ≠ i, also where an x is zero."""

    def forward(self, x, dim):
        self.ctx.save(x, dim)
        return torch.prod(x, dim)

    def backward(self, y_bar):
        x, dim = self.ctx.release
        return y_bar.unsqueeze(dim) * others(x, dim)

    def jvp(self, x_dot):
        x, dim = self.ctx.release
        return (x_dot * others(x, dim)).sum(dim)


class Others(Reduction):
    """yᵢ = Π xⱼ for j ≠ i along dim;  x̄ⱼ = Σᵢ ȳᵢ Π xₖ over k ≠ i, j. From products before and after each entry."""

    def forward(self, x, dim):
        self.ctx.save(x, dim)
        n = x.shape[dim]
        if n == 0:
            return x.clone()
        one = torch.ones_like(x.narrow(dim, 0, 1))
        before = torch.cat([one, x.narrow(dim, 0, n - 1)], dim).cumprod(dim)
        after = torch.cat([x.narrow(dim, 1, n - 1), one], dim).flip(dim).cumprod(dim).flip(dim)
        return before * after

    def backward(self, y_bar):
        x, dim = self.ctx.release
        n = x.shape[dim]
        if n < 2:
            return torch.zeros_like(y_bar)
        x_bar = None
        for i in range(n):  # what yᵢ gives the entries beside i; nothing to i itself
            rest = torch.cat([x.narrow(dim, 0, i), x.narrow(dim, i + 1, n - 1 - i)], dim)
            part = y_bar.narrow(dim, i, 1) * others(rest, dim)
            nothing = torch.zeros_like(part.narrow(dim, 0, 1))
            part = torch.cat([part.narrow(dim, 0, i), nothing, part.narrow(dim, i, n - 1 - i)], dim)
            x_bar = part if x_bar is None else x_bar + part
        return x_bar

    def jvp(self, x_dot):
        return self.backward(x_dot)  # its Jacobian is symmetric


_prod, others = function(Prod, "prod"), function(Others, "prod_of_others")


@implements(torch.prod)
@copies
def prod(x, dim=None, keepdim=False, *, dtype=None):
    """Π x over a dim or over all. Its second derivative costs n products of n."""
    x = x if dtype is None else x.to(dtype)
    if dim is None:
        return _prod(x.reshape((-1,)), 0)
    if x.ndim == 0:
        return x
    y = _prod(x, wrap_dim(dim, x.ndim))
    return y.unsqueeze(dim) if keepdim else y


# --- sizes ---------------------------------------------------------------------------------------------------


class Logsumexp(Reduction):
    """y = log Σ eˣ over dims;  x̄ = ȳ e^(x − y)."""

    def forward(self, x, dims, keepdim):
        y = torch.logsumexp(x, dims, keepdim) if x.ndim else x.clone()
        self.ctx.save(x, y, dims, keepdim)
        return y

    def backward(self, y_bar):
        x, y, dims, keepdim = self.ctx.release
        shape = tuple(x.shape)
        y, y_bar = (spread_back(t, shape, dims, keepdim) for t in (y, y_bar))
        return y_bar * torch.exp(x - y)

    def jvp(self, x_dot):
        x, y, dims, keepdim = self.ctx.release
        y = spread_back(y, tuple(x.shape), dims, keepdim)
        return summed(x_dot * torch.exp(x - y), dims, keepdim, None)


_logsumexp = function(Logsumexp, "logsumexp")


@implements(torch.logsumexp)
def logsumexp(x, dim, keepdim=False):
    """log Σ eˣ over dims, without overflow."""
    return _logsumexp(x, dim_tuple(dim, x.ndim), keepdim)


class Norm2(Reduction):
    """y = √Σ x² over dims;  x̄ = ȳ x / y, 0 where y = 0, which has no derivative there."""

    def forward(self, x, dims, keepdim):
        y = torch.linalg.vector_norm(x, 2, dims, keepdim) if dims else torch.abs(x)
        self.ctx.save(x, y, dims, keepdim)
        return y

    def backward(self, y_bar):
        x, y, dims, keepdim = self.ctx.release
        shape = tuple(x.shape)
        y, y_bar = (spread_back(t, shape, dims, keepdim) for t in (y, y_bar))
        zero = y == 0
        return without_slope(x * torch.where(zero, 0.0, y_bar / torch.where(zero, 1.0, y)), x, zero)

    def jvp(self, x_dot):
        x, y, dims, keepdim = self.ctx.release
        y = spread_back(y, tuple(x.shape), dims, keepdim)
        zero = y == 0
        along = x * torch.where(zero, 0.0, x_dot / torch.where(zero, 1.0, y))
        return summed(without_slope(along, x, zero), dims, keepdim, None)


_norm2 = function(Norm2, "norm")


@implements(torch.linalg.vector_norm, scalars=("ord",))
def vector_norm(x, ord=2, dim=None, keepdim=False, *, dtype=None):
    """(Σ |x|^ord)^(1/ord) over dims; ord may be ±inf (the largest, smallest |x|) and 0 (the count of entries not 0)."""
    x = x if dtype is None else x.to(dtype)
    dims = dim_tuple(dim, x.ndim)
    if not is_number(ord):
        return _norm_of_open_order(x, ord, dims, keepdim)
    if ord == 2:
        return _norm2(x, dims, keepdim)
    size = torch.abs(x)
    if ord == float("inf"):
        return _amax(size, dims, keepdim)
    if ord == -float("inf"):
        return _amin(size, dims, keepdim)
    if ord == 1:
        return summed(size, dims, keepdim, None)
    if ord == 0:
        return summed((x != 0).to(x.dtype), dims, keepdim, None)  # a constant
    total = summed(_safe_power(size, ord), dims, keepdim, None)
    zero = raw(total) == 0
    total = kinked(total, zero)
    return torch.where(zero, 0.0, torch.where(zero, 1.0, total) ** (1 / ord))


def _norm_of_open_order(x: Any, p: Any, dims: tuple[int, ...], keepdim: bool) -> Any:
    """(Σ |x|ᵖ)^(1/p) with its gradient for p, a 0-dim tensor; sums of zeros are 0."""
    order = raw(p).item()
    if order == 0 or math.isinf(order):
        raise NumberError(
            f"norm: its order (ord, p) must be a plain number where it is {order}: it has no gradient there"
        )
    zero = raw(x) == 0
    powers = torch.where(zero, 0.0 if order > 0 else math.inf, torch.where(zero, 1.0, torch.abs(x)) ** p)
    total = summed(powers, dims, keepdim, None)
    total = kinked(total, raw(total) == 0)
    none = (raw(total) == 0) | torch.isinf(raw(total))
    value = torch.where(raw(total) == 0, 0.0 if order > 0 else math.inf, 0.0 if order < 0 else math.inf)
    return torch.where(none, value.to(x.dtype), torch.where(none, 1.0, total) ** (1 / p))


def _safe_power(size: Any, ord: float) -> Any:
    """|x|^ord with gradient 0 at 0, where ord < 1 would have an infinite one."""
    if ord > 1:
        return size**ord
    zero = raw(size) == 0
    size = kinked(size, zero)
    return torch.where(zero, 0.0 if ord > 0 else float("inf"), torch.where(zero, 1.0, size) ** ord)


@implements(F.normalize, scalars=("p", "eps"))
def normalize(x, p=2.0, dim=1, eps=1e-12):
    """x / max(‖x‖ₚ, eps) along dim."""
    return x / _length(x, p, dim, eps)


def _length(x: Any, p: Any, dim: Any, eps: Any) -> Any:
    """max(‖x‖ₚ, eps) along dim, kept. Flat about 0, where the norm alone has a kink: zeros are kept from it."""
    zero = (raw(x) == 0).all(dim, keepdim=True)
    if known(zero.any()) is False:
        return torch.clamp(vector_norm(x, p, dim, True), min=eps)
    size = vector_norm(torch.where(zero, 1.0, x), p, dim, True)
    return torch.clamp(torch.where(zero, 0.0, size), min=eps)


@implements(torch.cosine_similarity, scalars=("eps",))
def cosine_similarity(x, other, dim=1, eps=1e-8):
    """Σ x y / (max(‖x‖, eps) max(‖y‖, eps)) along dim, broadcast."""
    x, other = torch.broadcast_tensors(x, other)
    lengths = [_length(t, 2, dim, eps) for t in (x, other)]
    return summed((x / lengths[0]) * (other / lengths[1]), dim_tuple(dim, x.ndim), False, None)
