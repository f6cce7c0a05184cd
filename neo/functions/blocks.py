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

    With m, C the patches' mean and covariance: μ = w·m + b, 1/r² = w C wᵀ + ε. For A = Σ g p and S = Σ g (g the
    cotangent before pooling; Correlate), T = Σ g x̂ = r (w·A − S w·m):
    w̄ = γ r (A − S m − r T C w),  b̄ = 0 (the mean takes it away),  γ̄ = T,  β̄ = S.
    """

    verified = True

    def forward(self, weight, bias, gamma, beta, eps, images):
        flat = weight.reshape(weight.shape[0], -1).double()
        scale = torch.rsqrt(((flat @ images.covariance) * flat).sum(1) + eps)
        slope = scale if gamma is None else scale * gamma
        shift = beta - slope * (flat @ images.mean)
        dtype = weight.dtype
        y, place = first_kernels.first(
            images.x, (flat * slope[:, None]).t().to(dtype).contiguous(), shift.to(dtype), images.stride, images.window
        )  # fmt: skip
        self.ctx.constant(place)
        self.ctx.save(weight, gamma, y, place, eps, images)
        return y

    def backward(self, y_bar):
        weight, gamma, y, place, eps, images = self.ctx.release
        sums = correlate(y_bar, y, place, images)
        A, S = sums[:-1].t(), sums[-1]
        flat = weight.reshape((weight.shape[0], -1)).to(torch.float64)
        Cw = flat @ images.covariance
        r = torch.rsqrt((Cw * flat).sum(1) + eps)
        T = r * ((flat * A).sum(1) - S * (flat @ images.mean))
        slope = r if gamma is None else r * gamma
        w_bar = (A - torch.outer(S, images.mean) - Cw * (r * T).unsqueeze(1)) * slope.unsqueeze(1)
        w_bar = w_bar.to(weight.dtype).reshape(tuple(weight.shape))
        of_norm = (S.to(weight.dtype),) if gamma is None else (T.to(weight.dtype), S.to(weight.dtype))
        return (w_bar, torch.zeros(weight.shape[0], dtype=weight.dtype), *of_norm)


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
correlate, spread = function(Correlate), function(Spread)
