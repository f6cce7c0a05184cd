"""Blocks of a convolutional net as Policies on Neo's own CPU kernels (neo.kernels), first and second order by hand.

Each equals a composition of the functions in normalization.py, activations.py and pooling.py, which is its oracle in
the tests and its rule at third order. fused.py chooses them where the kernels are ready.
"""

from __future__ import annotations

import torch

from neo.autograd._function import function
from neo.autograd.policy import Policy
from neo.autograd.session import vjp
from neo.functions.activations import rectified
from neo.functions.normalization import batch_norm_gradient
from neo.functions.pooling import to_places
from neo.kernels import first as first_kernels
from neo.kernels import norm as norm_kernels
from neo.tensor import LiteTensor

__all__ = ["first_block", "norm_relu_pool"]


class NormReLUPool(Policy):
    """y = max over windows of max(bn(x), 0);  (x̄, w̄, b̄) = NormReLUPoolGradient(ȳ, x, w, μ, r, y)."""

    verified = True

    def forward(self, x, weight, bias, eps, window):
        y, place, mean, scale = norm_kernels.norm(x, weight, bias, eps, window)
        self.ctx.constant(mean, scale)
        self.ctx.save(x, weight, mean, scale, y, place, eps, window)
        return y

    def backward(self, y_bar):
        x, weight, mean, scale, y, place, eps, window = self.ctx.release
        x_bar, w_bar, b_bar = norm_relu_pool_gradient(y_bar, x, weight, mean, scale, y, place, eps, window)
        return (x_bar, b_bar) if weight is None else (x_bar, w_bar, b_bar)


class NormReLUPoolGradient(Policy):
    """x̄ = w r (g − ⟨g⟩ − x̂ ⟨g x̂⟩), w̄ = Σ g x̂, b̄ = Σ g, for g = ȳ where y came from a positive pixel, 0 elsewhere.

    Its own gradient is BatchNormGradient's (normalization.py), with g read and written at those pixels alone; they and
    the sign of y are constants. At third order, the rule of the composition.
    """

    verified = True

    def forward(self, y_bar, x, weight, mean, scale, y, place, eps, window):
        out = norm_kernels.norm_gradient(y_bar, y, place, x, weight, mean, scale, window)
        self.ctx.save(y_bar, x, weight, mean, scale, y, place, out[1], out[2], eps, window)
        return out

    def backward(self, X, W, B):
        y_bar, x, weight, mean, scale, y, place, sum_gx, sum_g, eps, window = self.ctx.release
        needs = self.ctx.needs_grad
        constants = (None,) * (3 if place is None else 4)  # mean, scale, y, place
        if isinstance(x, LiteTensor):
            arguments = (y_bar, x) if weight is None else (y_bar, x, weight)
            _, pullback = vjp(
                lambda y_bar, x, weight=None: _composed(y_bar, x, weight, mean, scale, y, place, eps, window),
                *arguments,
            )
            return (*pullback((X, W, B)), *constants)
        asked = (needs[0], needs[1], weight is not None and needs[2])
        y_bar_out, x_out, w_out = norm_kernels.norm_gradient_back(
            X, W, B, y_bar, y, place, x, weight, mean, scale, sum_gx, sum_g, window, asked
        )
        return (y_bar_out, x_out, *(() if weight is None else (w_out,)), *constants)


def _composed(y_bar, x, weight, mean, scale, y, place, eps, window):
    """NormReLUPoolGradient, of functions that each have their rule at every order."""
    g = rectified(y_bar, y)
    if window > 1:
        n, channels, h, w = x.shape
        down, across = h // window, w // window
        rows = torch.arange(down).view(-1, 1) * window + place.data // window
        columns = torch.arange(across) * window + place.data % window
        size = (window, window)
        g = to_places(
            g, rows * w + columns, ((n, channels, h, w), x.stride()), (size, size, (0, 0), (1, 1), False)
        )
    return batch_norm_gradient(g, x, weight, mean, scale, eps)


# --- the first block ----------------------------------------------------------------------------------------------


class FirstBlock(Policy):
    """y = max over windows of max(γ r (p·w + b − μ) + β, 0) for the patches p of constant images.

    With m, C the patches' mean and covariance: μ = w·m + b, 1/r² = w C wᵀ + ε.
    (w̄, γ̄, β̄) = FirstBlockGradient(ȳ, w, γ, y);  b̄ = 0, for the mean takes b away.
    """

    verified = True

    def forward(self, weight, bias, gamma, beta, eps, images):
        y, place = first_kernels.first(images, weight, gamma, beta, eps)
        self.ctx.save(weight, gamma, y, place, eps, images)
        return y

    def backward(self, y_bar):
        weight, gamma, y, place, eps, images = self.ctx.release
        w_bar, gamma_bar, beta_bar = first_block_gradient(y_bar, weight, gamma, y, place, eps, images)
        b_bar = torch.zeros(weight.shape[0], dtype=weight.dtype) if self.ctx.needs_grad[1] else None
        return (w_bar, b_bar, beta_bar) if gamma is None else (w_bar, b_bar, gamma_bar, beta_bar)


class FirstBlockGradient(Policy):
    """For A = Σ g p, S = Σ g (g the cotangent before pooling; Correlate), D = A − S m, t = w·D:
    w̄ = γ r (D − r² t C w),  γ̄ = r t,  β̄ = S.

    Where y came from and its sign are constants. The gradient's own gradient is derived in first_block.h; at third
    order, the rule of the formulas above.
    """

    verified = True

    def forward(self, y_bar, weight, gamma, y, place, eps, images):
        w_bar, gamma_bar, beta_bar, sums = first_kernels.first_gradient(
            images, y_bar, y, place, weight, gamma, eps
        )
        self.ctx.constant(sums)
        self.ctx.save(y_bar, weight, gamma, y, place, sums, eps, images)
        return w_bar, gamma_bar, beta_bar

    def backward(self, W, G, B):
        y_bar, weight, gamma, y, place, sums, eps, images = self.ctx.release
        constants = (None,) * (1 if place is None else 2)  # y, place
        if isinstance(weight, LiteTensor):
            arguments = (y_bar, weight) if gamma is None else (y_bar, weight, gamma)
            _, pullback = vjp(
                lambda y_bar, weight, gamma=None: _first_gradient(
                    y_bar, weight, gamma, y, place, eps, images
                ),
                *arguments,
            )
            return (*pullback((W, G, B)), *constants)
        y_bar_out, w_out, gamma_out = first_kernels.first_gradient_back(
            images, W, G, B, sums, y, place, weight, gamma, eps
        )
        return (y_bar_out, w_out, *(() if gamma is None else (gamma_out,)), *constants)


def _first_gradient(y_bar, weight, gamma, y, place, eps, images):
    """FirstBlockGradient, of functions that each have their rule at every order."""
    sums = correlate(y_bar, y, place, images)
    flat = weight.reshape((weight.shape[0], -1)).to(torch.float64)
    Cw = flat @ images.covariance
    r = torch.rsqrt((Cw * flat).sum(1) + eps)
    S = sums[-1]
    D = sums[:-1].t() - torch.outer(S, images.mean)
    t = (flat * D).sum(1)
    slope = r if gamma is None else r * gamma
    w_bar = (D - Cw * (r * r * t).unsqueeze(1)) * slope.unsqueeze(1)
    return tuple(out.to(weight.dtype) for out in (w_bar.reshape(tuple(weight.shape)), r * t, S))


class Correlate(Policy):
    """(Σ g p, Σ g) over all pixels, g = ȳ where y came from a positive pixel; linear, with Spread as its adjoint."""

    verified = True

    def forward(self, y_bar, y, place, images):
        self.ctx.save(y, place, images)
        return first_kernels.correlate(y_bar, y, place, images.x, images.stride, images.window)

    def backward(self, sums_bar):
        y, place, images = self.ctx.release
        return (spread(sums_bar, y, place, images), None, *(() if place is None else (None,)))


class Spread(Policy):
    """ȳ from (Ā, S̄): p·Ā + S̄ at the pixel y came from, 0 where y is; linear, with Correlate as its adjoint."""

    verified = True

    def forward(self, sums, y, place, images):
        self.ctx.save(y, place, images)
        return first_kernels.spread(sums, y, place, images.x, images.stride, images.window)

    def backward(self, y_bar):
        y, place, images = self.ctx.release
        return (correlate(y_bar, y, place, images), None, *(() if place is None else (None,)))


norm_relu_pool = function(NormReLUPool, "batch_norm_relu_max_pool")
norm_relu_pool_gradient = function(NormReLUPoolGradient, "batch_norm_relu_max_pool_gradient")
first_block = function(FirstBlock, "first_block")
first_block_gradient = function(FirstBlockGradient, "first_block_gradient")
correlate, spread = function(Correlate), function(Spread)
