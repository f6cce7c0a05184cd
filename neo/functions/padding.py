"""Borders around tensors, and the parts of matrices about the diagonal."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.autograd.policy import Policy, function
from neo.functions._arguments import wrap_dim
from neo.functions.elementwise import is_number
from neo.functions.registry import copies, implements


class ConstantPad(Policy):
    """y = x with a border of one number;  x̄ = ȳ without the border."""

    verified = True

    def forward(self, x, pad, value):
        self.ctx.save(pad)
        return torch.constant_pad_nd(x, pad, value)

    def backward(self, y_bar):
        (pad,) = self.ctx.release
        return constant_pad(y_bar, [-n for n in pad], 0.0)

    def jvp(self, x_dot):
        (pad,) = self.ctx.release
        return constant_pad(x_dot, pad, 0.0)


constant_pad = function(ConstantPad, "pad")


def bordered(x: Any, pad: list[int], value: Any) -> Any:
    """x with a border of `value`, a number or a 0-dim tensor."""
    if is_number(value):
        return constant_pad(x, pad, value)
    inner = torch.ones(tuple(x.shape), dtype=torch.bool, device=x.device)
    inside = torch.constant_pad_nd(inner, pad, False)
    return torch.where(inside, constant_pad(x, pad, 0.0), value.to(x.dtype))


@implements(F.pad, scalars=("value",))
def pad(x, pad, mode="constant", value=None):
    """x with a border: pad is (before, after) for the last dim, then for the one before it, and so on.

    mode: "constant" (filled with value; negative widths crop), "reflect", "replicate" or "circular".
    """
    pad = [int(n) for n in pad]
    if mode == "constant":
        return bordered(x, pad, 0.0 if value is None else value)
    if mode not in ("reflect", "replicate", "circular"):
        raise NotImplementedError(f"pad: unrecognised padding mode {mode!r}")
    for i in range(len(pad) // 2):
        dim = x.ndim - 1 - i
        before, after = pad[2 * i : 2 * i + 2]
        n = x.shape[dim]
        places = torch.arange(-before, n + after, device=x.device)
        if mode == "replicate":
            places = places.clamp(0, n - 1)
        elif mode == "circular":
            if max(before, after) > n:
                raise RuntimeError(
                    f"pad: circular padding {before, after} goes round more than once on size {n}"
                )
            start, stop = max(-before, 0), n - max(-after, 0)  # negative widths crop first
            rounds = torch.arange(-max(before, 0), stop - start + max(after, 0), device=x.device)
            places = start + rounds % (stop - start)
        else:
            if max(before, after) >= n:
                raise RuntimeError(
                    f"pad: reflecting needs a padding smaller than the size, got {before, after} on {n}"
                )
            places = (n - 1) - ((n - 1) - places.abs()).abs()
        x = torch.index_select(x, dim, places)
    return x


@implements(torch.constant_pad_nd, scalars=("value",))
def constant_pad_nd(x, pad, value=0):
    """x with a border of one number."""
    return bordered(x, [int(n) for n in pad], value)


class Band(Policy):
    """y = x with 0 above or below a diagonal;  x̄ = ȳ with 0 there."""

    cut: Any

    verified = True

    def forward(self, x, diagonal=0):
        self.ctx.save(diagonal)
        return self.cut(x, diagonal)

    def backward(self, y_bar):
        return self.cut(y_bar, *self.ctx.release)

    def jvp(self, x_dot):
        return self.cut(x_dot, *self.ctx.release)


@implements(torch.tril)
class Tril(Band):
    """y = x with 0 above a diagonal;  x̄ = ȳ with 0 there."""

    cut = staticmethod(torch.tril)


@implements(torch.triu)
class Triu(Band):
    """y = x with 0 below a diagonal;  x̄ = ȳ with 0 there."""

    cut = staticmethod(torch.triu)


class Diagonal(Policy):
    """y = a diagonal of the matrices that two dims span, as the last dim;  x̄ = zeros with ȳ on it."""

    verified = True

    def forward(self, x, offset, dim1, dim2):
        self.ctx.save(tuple(x.shape), offset, dim1, dim2)
        return torch.diagonal(x, offset, dim1, dim2)

    def backward(self, y_bar):
        return on_diagonal(y_bar, *self.ctx.release)

    def jvp(self, x_dot):
        _, *place = self.ctx.release
        return read_diagonal(x_dot, *place)


class OnDiagonal(Policy):
    """x = zeros of a shape with y on a diagonal;  ȳ = that diagonal of x̄."""

    verified = True

    def forward(self, y, shape, offset, dim1, dim2):
        self.ctx.save(shape, offset, dim1, dim2)
        x = y.new_zeros(shape)
        x.diagonal(offset, dim1, dim2).copy_(y)
        return x

    def backward(self, x_bar):
        _, *place = self.ctx.release
        return read_diagonal(x_bar, *place)

    def jvp(self, y_dot):
        return on_diagonal(y_dot, *self.ctx.release)


read_diagonal, on_diagonal = function(Diagonal, "diagonal"), function(OnDiagonal, "on_diagonal")


@implements(torch.diagonal)
def diagonal(x, offset=0, dim1=0, dim2=1):
    """A diagonal of the matrices that dim1 and dim2 span, as the last dim."""
    return read_diagonal(x, offset, dim1, dim2)


@implements(torch.diag)
@copies
def diag(x, diagonal=0):
    """The diagonal of a matrix, or the matrix with a given diagonal."""
    if x.ndim == 2:
        return read_diagonal(x, diagonal, 0, 1)
    if x.ndim != 1:
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {x.ndim}D")
    n = x.shape[0] + abs(diagonal)
    return on_diagonal(x, (n, n), diagonal, 0, 1)


@implements(torch.diag_embed)
def diag_embed(x, offset=0, dim1=-2, dim2=-1):
    """Matrices with the last dim of x on a diagonal."""
    ndim = x.ndim + 1
    dim1, dim2 = wrap_dim(dim1, ndim), wrap_dim(dim2, ndim)
    n = x.shape[-1] + abs(offset)
    sizes = iter(x.shape[:-1])
    return on_diagonal(
        x, tuple(n if d in (dim1, dim2) else next(sizes) for d in range(ndim)), offset, dim1, dim2
    )


@implements(torch.trace)
def trace(x):
    """Σ of the diagonal of a matrix."""
    if x.ndim != 2:
        raise RuntimeError(f"trace: expected a matrix, but got tensor with dim {x.ndim}")
    return read_diagonal(x, 0, 0, 1).sum()
