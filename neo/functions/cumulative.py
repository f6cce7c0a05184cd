"""Along a dim, step by step: running extremes and log-sums, differences, the trapezoid rule, slopes."""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd.policy import Policy, function
from neo.functions._arguments import wrap_dim
from neo.functions._tangents import total
from neo.functions.extremes import values_at
from neo.functions.reduction import Reduction
from neo.functions.registry import implements, raw


@implements(torch.cummax)
def cummax(x, dim):
    """(values, indices): the largest so far along dim; the gradient goes to the place that indices name."""
    found = torch.cummax(raw(x), dim)
    return values_at(torch.return_types.cummax, x, dim, found.indices)


@implements(torch.cummin)
def cummin(x, dim):
    """(values, indices): the smallest so far along dim; the gradient goes to the place that indices name."""
    found = torch.cummin(raw(x), dim)
    return values_at(torch.return_types.cummin, x, dim, found.indices)


class LogCumsumExp(Reduction):
    """yᵢ = log Σ e^xⱼ over j ≤ i along dim;  x̄ = LogCumsumExpGradient(ȳ, x, y);
    ẏ = ↺LogCumsumExpGradient(↺ẋ, −↺y, −↺x), for ↺ see there."""

    def forward(self, x, dim):
        y = torch.logcumsumexp(x, dim)
        self.ctx.save(x, y, dim)
        return y

    def backward(self, y_bar):
        x, y, dim = self.ctx.release
        return y_bar if x.ndim == 0 else _logcumsumexp_gradient(y_bar, x, y, dim)

    def jvp(self, x_dot):
        x, y, dim = self.ctx.release
        return x_dot if x.ndim == 0 else _turned_gradient(x_dot, x, y, dim)


class LogCumsumExpGradient(Policy):
    """zⱼ = G(g, x, y)ⱼ = Σ gᵢ e^(xⱼ − yᵢ) over i ≥ j along dim.
    With ↺ for turned round along dim: ḡ = ↺G(↺z̄, −↺y, −↺x),  x̄ = z̄ z,  ȳ = −g ḡ;
    ż = G(ġ − g ẏ, x, y) + z ẋ.

    Linear in g, and so has a derivative by it where g = 0 too, which its numbers, made by logarithms of the positive
    and the negative g apart so that nothing overflows, would not show.
    """

    verified = True

    def forward(self, g, x, y, dim):
        z = _by_logarithms(g, x, y, dim) - _by_logarithms(-g, x, y, dim)
        self.ctx.save(g, x, y, z, dim)
        return z

    def backward(self, z_bar):
        g, x, y, z, dim = self.ctx.release
        need_g, need_x, need_y = self.ctx.needs_grad
        g_bar = None
        if need_g or need_y:
            g_bar = _turned_gradient(z_bar, x, y, dim)
        return g_bar, z_bar * z if need_x else None, -g * g_bar if need_y else None

    def jvp(self, g_dot, x_dot, y_dot):
        g, x, y, z, dim = self.ctx.release
        seed = total(g_dot, None if y_dot is None else -g * y_dot)
        return total(
            None if seed is None else _logcumsumexp_gradient(seed, x, y, dim),
            None if x_dot is None else z * x_dot,
        )


def _by_logarithms(g: torch.Tensor, x: torch.Tensor, y: torch.Tensor, dim: int) -> torch.Tensor:
    """Σ gᵢ e^(xⱼ − yᵢ) over i ≥ j with gᵢ > 0."""
    positive = g > 0
    nothing = torch.finfo(g.dtype).min / 1024  # e to that is 0, and a few of them together do not overflow
    logs = torch.where(positive, torch.log(torch.where(positive, g, 1.0)), nothing)
    return torch.exp(torch.logcumsumexp((logs - y).flip(dim), dim).flip(dim) + x)


def _turned_gradient(g: Any, x: Any, y: Any, dim: int) -> Any:
    """↺G(↺g, −↺y, −↺x)ᵢ = Σ gⱼ e^(xⱼ − yᵢ) over j ≤ i."""
    return _logcumsumexp_gradient(g.flip(dim), -y.flip(dim), -x.flip(dim), dim).flip(dim)


_logcumsumexp_gradient = function(LogCumsumExpGradient, "logcumsumexp_gradient")
_logcumsumexp = function(LogCumsumExp, "logcumsumexp")
implements(torch.logcumsumexp)(LogCumsumExp)


@implements(torch.diff)
def diff(x, n=1, dim=-1, prepend=None, append=None):
    """xᵢ₊₁ − xᵢ along dim, n times over; prepend and append go before and after x first."""
    if n < 0:
        raise RuntimeError(f"diff: order must be non-negative but got {n}")
    if n == 0:
        return x.clone()  # prepend and append count for nothing, as in torch
    parts = [t for t in (prepend, x, append) if t is not None]
    if len(parts) > 1:
        x = torch.cat(parts, dim)
    for _ in range(min(n, x.shape[dim])):
        length = x.shape[dim]
        x = x.narrow(dim, 1, length - 1) - x.narrow(dim, 0, length - 1) if length else x
    return x


# --- the trapezoid rule --------------------------------------------------------------------------------------


def _steps(y: Any, x: Any, dx: float | None, dim: int) -> Any:
    """The widths between neighbours of y along dim, to be broadcast against them; a number if all are one."""
    if x is None:
        return 1.0 if dx is None else dx
    if x.ndim == 1:
        if x.shape[0] != y.shape[dim]:
            raise RuntimeError(
                "trapezoid: There must be one `x` value for each sample point, got "
                f"{x.shape[0]} and {y.shape[dim]} along dim {dim}"
            )
        return diff(x).reshape((-1,) + (1,) * (y.ndim - 1 - dim % y.ndim))
    return diff(x, dim=dim if x.ndim == y.ndim else dim % y.ndim - (y.ndim - x.ndim))


def _areas(y: Any, x: Any, dx: float | None, dim: int) -> Any:
    n = y.shape[dim]
    dim = wrap_dim(dim, y.ndim)
    pairs = y.narrow(dim, 1, n - 1) + y.narrow(dim, 0, n - 1)
    return pairs * _steps(y, x, dx, dim) * 0.5


@implements(torch.trapezoid, torch.trapz, scalars=("dx",))
def trapezoid(y, x=None, *, dx=None, dim=-1):
    """Σ (yᵢ + yᵢ₊₁) / 2 · (xᵢ₊₁ − xᵢ) along dim, or times dx."""
    if y.shape[dim] == 0:
        return torch.zeros_like(y.sum(dim))
    return _areas(y, x, dx, dim).sum(dim)


@implements(torch.cumulative_trapezoid, scalars=("dx",))
def cumulative_trapezoid(y, x=None, *, dx=None, dim=-1):
    """The running sums of trapezoid."""
    return torch.cumsum(_areas(y, x, dx, dim), dim)


# --- slopes --------------------------------------------------------------------------------------------------


@implements(torch.gradient, tensors=("spacing",))
def gradient(x, *, spacing=None, dim=None, edge_order=1):
    """Slopes of x along each dim by second-order differences inside, edge_order ones at the ends, as a list.

    spacing: a number, a number for each dim, or the coordinates along each dim (vectors). Fornberg 1988.
    """
    dims = (
        list(range(x.ndim))
        if dim is None
        else [wrap_dim(d, x.ndim) for d in ([dim] if isinstance(dim, int) else dim)]
    )
    if len(set(dims)) != len(dims):
        raise RuntimeError(f"gradient: a dim appears multiple times in the list of dims {dims}")
    if spacing is None or not isinstance(spacing, list | tuple):
        spacing = [1.0 if spacing is None else spacing] * len(dims)
    return [_slope(x, h, d, edge_order) for h, d in zip(spacing, dims, strict=True)]


def _slope(x: Any, spacing: Any, dim: int, edge_order: int) -> Any:
    n = x.shape[dim]
    if n < edge_order + 1:
        raise RuntimeError(
            f"gradient: expected each dimension size to be at least edge_order+1, got {n} along dim {dim}"
        )
    if isinstance(spacing, int | float):
        width = torch.full((n - 1,), spacing, dtype=x.dtype, device=x.device)
    elif spacing.ndim == 0:
        width = spacing.to(x.dtype).expand((n - 1,))
    else:
        width = diff(spacing)
    width = width.reshape((-1,) + (1,) * (x.ndim - 1 - dim))

    rise = (x.narrow(dim, 1, n - 1) - x.narrow(dim, 0, n - 1)) / width
    if n == 2:
        return torch.cat([rise, rise], dim)
    left, right = width.narrow(0, 0, n - 2), width.narrow(0, 1, n - 2)
    a, b = rise.narrow(dim, 0, n - 2), rise.narrow(dim, 1, n - 2)
    bend = (b - a) / (left + right)
    inside = a + bend * left
    first, last = rise.narrow(dim, 0, 1), rise.narrow(dim, n - 2, 1)
    if edge_order == 2:
        first = first - bend.narrow(dim, 0, 1) * left.narrow(0, 0, 1)
        last = last + bend.narrow(dim, n - 3, 1) * right.narrow(0, n - 3, 1)
    return torch.cat([first, inside, last], dim)
