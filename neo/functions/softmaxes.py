"""Softmax and its logarithm, over a dim."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neo.autograd.policy import Policy, function
from neo.functions._arguments import wrap_dim
from neo.functions._tangents import total
from neo.functions.registry import implements
from neo.kernels import dense


class Softmax(Policy):
    """y = eˣ / Σ eˣ;  x̄ = y (ȳ − Σ ȳ y), sums over dim."""

    verified = True

    def forward(self, x, dim):
        y = dense.softmax(x, dim, False)
        self.ctx.save(y, dim)
        return y

    def backward(self, y_bar):
        y, dim = self.ctx.release
        return softmax_gradient(y_bar, y, dim)

    def jvp(self, x_dot):
        return self.backward(x_dot)  # its Jacobian is symmetric


class SoftmaxGradient(Policy):
    """z = y (g − Σ g y);  ḡ = y (z̄ − Σ z̄ y), ȳ = z̄ (g − Σ g y) − g Σ z̄ y;
    ż = y (ġ − Σ (ġ y + g ẏ)) + ẏ (g − Σ g y)."""

    verified = True

    def forward(self, g, y, dim):
        self.ctx.save(g, y, dim)
        return dense.softmax_gradient(g, y, dim, g.dtype)

    def backward(self, z_bar):
        g, y, dim = self.ctx.release
        need_g, need_y = self.ctx.needs_grad
        y_bar = None
        if need_y:
            y_bar = z_bar * (g - (g * y).sum(dim, True)) - g * (z_bar * y).sum(dim, True)
        return softmax_gradient(z_bar, y, dim) if need_g else None, y_bar

    def jvp(self, g_dot, y_dot):
        g, y, dim = self.ctx.release
        z_dot = None if g_dot is None else softmax_gradient(g_dot, y, dim)
        if y_dot is None:
            return z_dot
        moved = y_dot * (g - (g * y).sum(dim, True)) - y * (g * y_dot).sum(dim, True)
        return total(z_dot, moved)


class LogSoftmax(Policy):
    """y = x − log Σ eˣ;  x̄ = ȳ − e^y Σ ȳ, sums over dim;  ẏ = ẋ − Σ e^y ẋ."""

    verified = True

    def forward(self, x, dim):
        y = torch._log_softmax(x, dim, False)
        self.ctx.save(y, dim)
        return y

    def backward(self, y_bar):
        y, dim = self.ctx.release
        return log_softmax_gradient(y_bar, y, dim)

    def jvp(self, x_dot):
        y, dim = self.ctx.release
        return x_dot - (x_dot * torch.exp(y)).sum(dim, True)


class LogSoftmaxGradient(Policy):
    """z = g − e^y Σ g;  ḡ = z̄ − Σ z̄ e^y, ȳ = −z̄ e^y Σ g;  ż = ġ − e^y (Σ ġ + ẏ Σ g)."""

    verified = True

    def forward(self, g, y, dim):
        self.ctx.save(g, y, dim)
        return torch._log_softmax_backward_data(g, y, dim, g.dtype)

    def backward(self, z_bar):
        g, y, dim = self.ctx.release
        need_g, need_y = self.ctx.needs_grad
        weighted = z_bar * torch.exp(y)
        g_bar = z_bar - weighted.sum(dim, True) if need_g else None
        return g_bar, -weighted * g.sum(dim, True) if need_y else None

    def jvp(self, g_dot, y_dot):
        g, y, dim = self.ctx.release
        return total(
            None if g_dot is None else log_softmax_gradient(g_dot, y, dim),
            None if y_dot is None else -torch.exp(y) * y_dot * g.sum(dim, True),
        )


normalized_exp, softmax_gradient = function(Softmax, "softmax"), function(SoftmaxGradient, "softmax_gradient")
log_normalized_exp = function(LogSoftmax, "log_softmax")
log_softmax_gradient = function(LogSoftmaxGradient, "log_softmax_gradient")


@implements(torch.softmax, F.softmax, torch.special.softmax)
def softmax(x, dim=None, _stacklevel=3, dtype=None):
    """eˣ / Σ eˣ over dim; torch.softmax(x, dim, dtype) and F.softmax(x, dim, dtype=dtype)."""
    x, dim = _softmax_arguments(x, dim, _stacklevel, dtype, "softmax")
    return normalized_exp(x, dim)


@implements(torch.log_softmax, F.log_softmax, torch.special.log_softmax)
def log_softmax(x, dim=None, _stacklevel=3, dtype=None):
    """x − log Σ eˣ over dim."""
    x, dim = _softmax_arguments(x, dim, _stacklevel, dtype, "log_softmax")
    return log_normalized_exp(x, dim)


@implements(torch._softmax_backward_data, torch.ops.aten._softmax_backward_data, only=True)
def softmax_backward_data(g, y, dim, input_dtype):
    """y (g − Σ g y): the gradient of softmax as aten spells it."""
    return softmax_gradient(g, y, dim)


@implements(F.softmin)
def softmin(x, dim=None, _stacklevel=3, dtype=None):
    """e⁻ˣ / Σ e⁻ˣ over dim."""
    return softmax(-x, dim, _stacklevel, dtype)


def _softmax_arguments(x, dim, stacklevel, dtype, name):
    if dim is None:
        raise TypeError(f"{name}: say over which dim, as in {name}(x, dim=-1)")
    if isinstance(stacklevel, torch.dtype):
        dtype = stacklevel
    if dtype is not None and x.dtype is not dtype:
        x = x.to(dtype)
    return x, wrap_dim(dim, x.ndim)
