"""A net's first block on constant images as Policies on Neo's own CPU kernels, first and second order by hand.

fused.py chooses it where the kernels are ready. At third order the gradient's composition is differentiated, which is
made of functions that each have their rule at every order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neo.autograd._batched import any_batched
from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions._tangents import total
from neo.functions.activations import rectified_by
from neo.functions.norm_relu_pool import at_places, composed_norm_relu_pool, windows_of
from neo.functions.pooling import from_places
from neo.functions.registry import raw
from neo.kernels import first as first_kernels

__all__ = ["first_block"]


class FirstBlock(Policy):
    """y = max(m, 0) + slope min(m, 0), m the largest γ r (p·w + b − μ) + β of a window, p the patches of constant
    images.

    With m, C the patches' mean and covariance: μ = w·m + b, 1/r² = w C wᵀ + ε.
    (w̄, γ̄, β̄) = FirstBlockGradient(ȳ, w, γ, y);  b̄ = 0, for the mean takes b away.
    ẏ = Spread(A, β̇ − m·A) for A = γ r ẇ + (γ̇ r − γ r³ w C ẇᵀ) w.
    """

    verified = True
    kernel_tangent = True

    @staticmethod
    def composition(weight, bias, gamma, beta, eps, images):
        z = F.conv2d(images.x, weight, bias, images.stride, 1)
        return composed_norm_relu_pool(z, gamma, beta, eps, images.window, images.slope)

    def forward(self, weight, bias, gamma, beta, eps, images):
        y, place = first_kernels.first(images, weight, gamma, beta, eps)
        self.ctx.save(weight, gamma, y, place, eps, images)
        return y

    def backward(self, y_bar):
        weight, gamma, y, place, eps, images = self.ctx.release
        w_bar, gamma_bar, beta_bar = first_block_gradient(y_bar, weight, gamma, y, place, eps, images)
        b_bar = (
            torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
            if self.ctx.needs_grad[1]
            else None
        )
        return (w_bar, b_bar, beta_bar) if gamma is None else (w_bar, b_bar, gamma_bar, beta_bar)

    def jvp(self, w_dot, b_dot, *dots):
        weight, gamma, y, place, eps, images = self.ctx.release
        gamma_dot, beta_dot = (None, *dots) if gamma is None else dots
        if w_dot is None and gamma_dot is None and beta_dot is None:
            return None
        if not (isinstance(weight, LiteTensor) or any_batched(w_dot, gamma_dot, beta_dot)):
            return first_kernels.first_tangent(
                images, w_dot, gamma_dot, beta_dot, y, place, weight, gamma, eps
            )
        flat, Cw, r = _line(weight, eps, images)
        slope = None if gamma_dot is None else r * gamma_dot  # the derivative of γ r
        A = None
        if w_dot is not None:
            flat_dot = w_dot.reshape((w_dot.shape[0], -1)).to(torch.float64)
            gamma_r = r if gamma is None else r * gamma
            slope = total(slope, -gamma_r * r * r * (Cw * flat_dot).sum(1))
            A = flat_dot * gamma_r.unsqueeze(1)
        if slope is not None:
            A = total(A, flat * slope.unsqueeze(1))
        if A is None:
            A = torch.zeros_like(flat)
        S = -(A @ images.mean) if beta_dot is None else beta_dot - A @ images.mean
        sums = torch.cat([A.t(), S.unsqueeze(0)])
        return (Spread.composition if any_batched(raw(sums)) else spread)(sums, y, place, images)


class FirstBlockGradient(Policy):
    """For A = Σ g p, S = Σ g (g the cotangent before pooling; Correlate), D = A − S m, t = w·D:
    w̄ = γ r (D − r² t C w),  γ̄ = r t,  β̄ = S.

    Where y came from and its sign are constants. The gradient's own gradient is derived in first_block.h. Its tangent
    is (w̄, γ̄, β̄) for ȳ˙, and, second derivatives being symmetric, its own gradient by w and γ for W, G, B = ẇ, γ̇, 0.
    """

    verified = True
    once_differentiable = True

    @staticmethod
    def composition(y_bar, weight, gamma, y, place, eps, images):
        sums = correlate(y_bar, y, place, images)
        flat, Cw, r = _line(weight, eps, images)
        S = sums[-1]
        D = sums[:-1].t() - torch.outer(S, images.mean)
        t = (flat * D).sum(1)
        slope = r if gamma is None else r * gamma
        w_bar = (D - Cw * (r * r * t).unsqueeze(1)) * slope.unsqueeze(1)
        return tuple(out.to(weight.dtype) for out in (w_bar.reshape(tuple(weight.shape)), r * t, S))

    def forward(self, y_bar, weight, gamma, y, place, eps, images):
        w_bar, gamma_bar, beta_bar, sums = first_kernels.first_backward(
            images, y_bar, y, place, weight, gamma, eps
        )
        self.ctx.constant(sums)
        self.ctx.save(weight, gamma, y, place, sums, eps, images)
        return w_bar, gamma_bar, beta_bar

    def backward(self, W, G, B):
        weight, gamma, y, place, sums, eps, images = self.ctx.release
        y_bar_out, w_out, gamma_out = first_kernels.first_double_backward(
            images, W, G, B, sums, y, place, weight, gamma, eps
        )
        return (
            y_bar_out,
            w_out,
            *(() if gamma is None else (gamma_out,)),
            *(None,) * (1 if place is None else 2),
        )

    def jvp(self, y_bar_dot, w_dot, *dots):
        weight, gamma, y, place, sums, eps, images = self.ctx.release
        gamma_dot = None if gamma is None else dots[0]
        w_bar = gamma_bar = beta_bar = None
        if y_bar_dot is not None:
            w_bar, gamma_bar, beta_bar, _ = first_kernels.first_backward(
                images, y_bar_dot, y, place, weight, gamma, eps
            )
        if w_dot is not None or gamma_dot is not None:
            _, of_w, of_gamma = first_kernels.first_double_backward(
                images, w_dot, gamma_dot, None, sums, y, place, weight, gamma, eps, wants_y_bar=False
            )
            w_bar, gamma_bar = total(w_bar, of_w), total(gamma_bar, of_gamma)
        return w_bar, gamma_bar, beta_bar


def _line(weight, eps, images):
    """(w, C w, r), float64, a row a channel: r of the line γ r (p·w − w·m) + β that batch norm makes of z."""
    flat = weight.reshape((weight.shape[0], -1)).to(torch.float64)
    Cw = flat @ images.covariance
    return flat, Cw, torch.rsqrt((Cw * flat).sum(1) + eps)


class Correlate(Policy):
    """(Σ g p, Σ g) over all pixels, g = ȳ through the rectifier at the pixels y came from; linear, with Spread as its
    adjoint."""

    verified = True

    @staticmethod
    def composition(y_bar, y, place, images):
        g = at_places(
            rectified_by(y_bar, y, images.slope), place, layout_before_pooling(y, images), images.window
        )
        g = g.permute((0, 2, 3, 1)).reshape((-1, y.shape[1])).to(torch.float64)
        return torch.cat([patches_of(images).T @ g, g.sum(0, True)])

    def forward(self, y_bar, y, place, images):
        self.ctx.save(y, place, images)
        return first_kernels.correlate(y_bar, y, place, images)

    def backward(self, sums_bar):
        y, place, images = self.ctx.release
        return (spread(sums_bar, y, place, images), None, *(() if place is None else (None,)))

    def jvp(self, y_bar_dot, *_):
        return None if y_bar_dot is None else correlate(y_bar_dot, *self.ctx.release)


class Spread(Policy):
    """ȳ from (Ā, S̄): p·Ā + S̄ at the pixel y came from, through the rectifier; linear, with Correlate as its adjoint."""

    verified = True

    @staticmethod
    def composition(sums, y, place, images):
        layout = layout_before_pooling(y, images)
        n, channels, h, w = layout[0]
        rows = patches_of(images) @ sums[:-1] + sums[-1]
        z_bar = rows.reshape((n, h, w, channels)).permute((0, 3, 1, 2)).to(y.dtype)
        pooled = z_bar if place is None else from_places(z_bar, *windows_of(place, layout, images.window))
        return rectified_by(pooled, y, images.slope)

    def forward(self, sums, y, place, images):
        self.ctx.save(y, place, images)
        return first_kernels.spread(sums, y, place, images)

    def backward(self, y_bar):
        y, place, images = self.ctx.release
        return (correlate(y_bar, y, place, images), None, *(() if place is None else (None,)))

    def jvp(self, sums_dot, *_):
        return None if sums_dot is None else spread(sums_dot, *self.ctx.release)


def patches_of(images):
    """(pixels, taps), float64: the entries of the images under each place of the 3x3 kernel."""
    columns = F.unfold(images.x.to(torch.float64), 3, padding=1, stride=images.stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def layout_before_pooling(y, images):
    """Shape and strides, channels-last, of the image that a block pooled to y."""
    n, channels = y.shape[:2]
    h, w = ((size - 1) // images.stride + 1 for size in images.x.shape[2:])
    return (n, channels, h, w), (h * w * channels, 1, w * channels, channels)


first_block = function(FirstBlock, "first_block")
first_block_gradient = function(FirstBlockGradient, "first_block_gradient")
correlate, spread = function(Correlate), function(Spread)
