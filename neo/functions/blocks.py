"""Blocks of a convolutional net as Policies on Neo's own CPU kernels (neo.kernels), first and second order by hand.

Each equals a composition of the functions in normalization.py, activations.py and pooling.py, which is its oracle in
the tests and its rule at third order. fused.py chooses them where the kernels are ready.
"""

from __future__ import annotations

import torch

from neo.autograd.policy import Policy, function
from neo.autograd.session import vjp
from neo.autograd.tensor import LiteTensor
from neo.functions.activations import rectified
from neo.functions.convolution import input_gradient, weight_gradient
from neo.functions.normalization import batch_norm_gradient
from neo.functions.pooling import to_places
from neo.kernels import block as block_kernels
from neo.kernels import norm as norm_kernels

__all__ = ["conv_norm_relu_pool", "norm_relu_pool", "pixel_means"]


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
        rows = torch.arange(down, device=x.device).view(-1, 1) * window + place.data // window
        columns = torch.arange(across, device=x.device) * window + place.data % window
        size = (window, window)
        g = to_places(
            g, rows * w + columns, ((n, channels, h, w), x.stride()), (size, size, (0, 0), (1, 1), False)
        )
    return batch_norm_gradient(g, x, weight, mean, scale, eps)


# --- means over the pixels ------------------------------------------------------------------------------------------


class PixelMeans(Policy):
    """y = the mean of x over the pixels of each image;  x̄ = SpreadMeans(ȳ), its adjoint."""

    verified = True

    def forward(self, x):
        self.ctx.save(x.shape[2:])
        return norm_kernels.pixel_means(x)

    def backward(self, y_bar):
        (size,) = self.ctx.release
        return spread_means(y_bar, *size)


class SpreadMeans(Policy):
    """x = y / (height · width) at every pixel of an image;  ȳ = PixelMeans(x̄), its adjoint."""

    verified = True

    def forward(self, means, height, width):
        return norm_kernels.spread_means(means, height, width)

    def backward(self, x_bar):
        return pixel_means(x_bar.contiguous(memory_format=torch.channels_last))


# --- with the convolution before it ---------------------------------------------------------------------------------


class ConvNormReLUPool(Policy):
    """z = x ∗ w + b, y = max over windows of max(bn(z), 0);  (x̄, w̄, γ̄, β̄) = ConvNormReLUPoolGradient(ȳ, z̄, x, w, γ, z).

    b̄ = 0, for the mean takes b away. z is an output for the gradient's sake, which is a function of it: what comes back
    to z there joins ȳ's way here, and goes through the convolution once. Otherwise nobody uses it, and z̄ is None.
    """

    verified = True
    materialize = False

    def forward(self, x, weight, bias, gamma, beta, eps, stride, window):
        y, z, place, mean, scale = block_kernels.block(x, weight, bias, gamma, beta, eps, stride, window)
        self.ctx.constant(mean, scale)
        self.ctx.save(x, weight, bias is not None, gamma, z, mean, scale, y, place, eps, stride, window)
        return y, z

    def backward(self, y_bar, z_bar):
        x, weight, biased, gamma, z, mean, scale, y, place, eps, stride, window = self.ctx.release
        needs = self.ctx.needs_grad
        asked = needs[:2]
        if y_bar is None:
            y_bar = torch.zeros_like(y)
        *found, gamma_bar, beta_bar = conv_norm_relu_pool_gradient(
            y_bar, z_bar, x, weight, gamma, z, mean, scale, y, place, eps, stride, window, asked
        )
        x_bar = found.pop(0) if asked[0] else None
        w_bar = found.pop(0) if asked[1] else None
        b_bar = (
            torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
            if biased and needs[2]
            else None
        )
        return (
            x_bar,
            w_bar,
            *([b_bar] if biased else []),
            *([] if gamma is None else [gamma_bar]),
            beta_bar,
        )


class ConvNormReLUPoolGradient(Policy):
    """ζ = z̄ + NormReLUPoolGradient(ȳ, z, γ), and x̄ = input_gradient(ζ, w), w̄ = weight_gradient(x, ζ), where `asked`.

    Its own gradient, for cotangents X, W of x̄, w̄: that of ζ is Z = X ∗ w + x ∗ W, from which NormReLUPoolGradient's
    way back leads to ȳ, z and γ; x's is input_gradient(ζ, W), w's weight_gradient(X, ζ). At third order, the rule of
    the composition.
    """

    verified = True

    def forward(self, y_bar, z_bar, x, weight, gamma, z, mean, scale, y, place, eps, stride, window, asked):
        of_z, x_bar, w_bar, gamma_bar, beta_bar = block_kernels.block_gradient(
            y_bar, z_bar, x, weight, gamma, z, mean, scale, y, place, stride, window, asked
        )
        self.ctx.constant(of_z)
        self.ctx.save(
            y_bar, z_bar, x, weight, gamma, z, mean, scale, y, place, of_z, gamma_bar, beta_bar, eps, stride, window,
            asked
        )  # fmt: skip
        return *(bar for bar in (x_bar, w_bar) if bar is not None), gamma_bar, beta_bar

    def backward(self, *bars):
        y_bar, z_bar, x, weight, gamma, z, mean, scale, y, place, of_z, *rest = self.ctx.release
        gamma_bar, beta_bar, eps, stride, window, asked = rest
        constants = (None,) * (3 if place is None else 4)  # mean, scale, y, place
        if isinstance(x, LiteTensor):
            given = {"y_bar": y_bar, "z_bar": z_bar, "x": x, "weight": weight, "gamma": gamma, "z": z}
            given = {name: value for name, value in given.items() if value is not None}

            def composed(*tensors):
                named = dict(zip(given, tensors, strict=True))
                return _composed_with_convolution(named, mean, scale, y, place, eps, stride, window, asked)

            _, pullback = vjp(composed, *given.values())
            return (*pullback(bars), *constants)
        needs = iter(self.ctx.needs_grad)
        need_y_bar = next(needs)
        if z_bar is not None:
            next(needs)
        need_x, need_weight = next(needs), next(needs)
        found = list(bars)
        X = found.pop(0) if asked[0] else None
        W = found.pop(0) if asked[1] else None
        G, B = found
        y_bar_out, z_bar_out, x_out, w_out, gamma_out, z_out = block_kernels.block_gradient_back(
            X, W, G, B, y_bar, x, weight, gamma, z, mean, scale, y, place, of_z, gamma_bar, beta_bar, stride, window,
            (need_y_bar, need_x, need_weight, gamma is not None and next(needs))
        )  # fmt: skip
        return (
            y_bar_out,
            *([] if z_bar is None else [z_bar_out]),
            x_out,
            w_out,
            *([] if gamma is None else [gamma_out]),
            z_out,
            *constants,
        )


def _composed_with_convolution(given, mean, scale, y, place, eps, stride, window, asked):
    """ConvNormReLUPoolGradient, of functions that each have their rule at every order."""
    x, weight = given["x"], given["weight"]
    geometry = ((stride, stride), (1, 1), (1, 1), False, (0, 0), 1)
    of_z, gamma_bar, beta_bar = norm_relu_pool_gradient(
        given["y_bar"], given["z"], given.get("gamma"), mean, scale, y, place, eps, window
    )
    if "z_bar" in given:
        of_z = of_z + given["z_bar"]
    bars = []
    if asked[0]:
        bars.append(input_gradient(of_z, weight, (tuple(x.shape), x.stride()), geometry))
    if asked[1]:
        bars.append(weight_gradient(x, of_z, tuple(weight.shape), geometry))
    return *bars, gamma_bar, beta_bar


norm_relu_pool = function(NormReLUPool, "batch_norm_relu_max_pool")
norm_relu_pool_gradient = function(NormReLUPoolGradient, "batch_norm_relu_max_pool_gradient")
conv_norm_relu_pool = function(ConvNormReLUPool, "conv_batch_norm_relu_max_pool")
conv_norm_relu_pool_gradient = function(ConvNormReLUPoolGradient, "conv_batch_norm_relu_max_pool_gradient")
pixel_means, spread_means = function(PixelMeans, "mean"), function(SpreadMeans)
