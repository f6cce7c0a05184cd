"""A block of a convolutional net as one Policy on Neo's own CPU kernels (neo.kernels), first and second order by hand.

Convolution, batch norm, a rectifier and max pooling. fused.py chooses it where the kernels are ready. At third order
the gradient's composition is differentiated, of functions that each have their rule at every order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neo.autograd._batched import any_batched
from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions._tangents import total
from neo.functions.convolution import convolution, input_gradient, weight_gradient
from neo.functions.norm_relu_pool import (
    composed_norm_relu_pool,
    norm_relu_pool_gradient,
    norm_relu_pool_tangent,
)
from neo.kernels import block as block_kernels

__all__ = ["conv_norm_relu_pool"]


class ConvNormReLUPool(Policy):
    """z = x ∗ w + b, y = max(m, 0) + slope min(m, 0), m = the largest bn(z) of a window;
    (x̄, w̄, γ̄, β̄) = ConvNormReLUPoolGradient(ȳ, z̄, x, w, γ, z);
    ż = ẋ ∗ w + x ∗ ẇ, ẏ = norm_relu_pool_tangent(ż, γ̇, β̇).

    b̄ = 0, for the mean takes b away. z is an output for the gradient's sake, which is a function of it: its cotangent
    there joins ȳ's here, and goes through the convolution once. (It sums to 0 over each channel, whose shift changes
    nothing, so that b̄ stays 0, and ż leaves ḃ out.) Otherwise nobody uses z, and z̄ is None.
    """

    verified = True
    kernel_tangent = True
    materialize = False

    @staticmethod
    def composition(x, weight, bias, gamma, beta, eps, stride, window, slope):
        z = F.conv2d(x, weight, bias, stride, 1)
        return composed_norm_relu_pool(z, gamma, beta, eps, window, slope), z

    def forward(self, x, weight, bias, gamma, beta, eps, stride, window, slope):
        block = block_kernels.forward(x, weight, bias, gamma, beta, eps, stride, window, slope)
        self.ctx.constant(block.mean, block.scale)
        self.ctx.save(*block, eps, bias is not None)
        return block.y, block.z

    def backward(self, y_bar, z_bar):
        *saved, eps, biased = self.ctx.release
        block = block_kernels.Block(*saved)
        need_x, need_weight, *others = self.ctx.needs_grad
        if y_bar is None:
            y_bar = torch.zeros_like(block.y)
        *found, gamma_bar, beta_bar = conv_norm_relu_pool_gradient(
            y_bar, z_bar, block, eps, (need_x, need_weight)
        )
        x_bar = found.pop(0) if need_x else None
        w_bar = found.pop(0) if need_weight else None
        b_bar = None
        if biased and others[0]:
            weight = block.weight
            b_bar = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        of_bias, of_gamma = [b_bar] if biased else [], [] if block.gamma is None else [gamma_bar]
        return x_bar, w_bar, *of_bias, *of_gamma, beta_bar

    def jvp(self, x_dot, w_dot, *dots):
        *saved, eps, biased = self.ctx.release
        block = block_kernels.Block(*saved)
        *others, beta_dot = dots
        if biased:
            others.pop(0)
        gamma_dot = others.pop(0) if block.gamma is not None else None
        dots = (x_dot, w_dot, gamma_dot, beta_dot)
        if all(dot is None for dot in dots):
            return None, None
        if not (isinstance(block.z, LiteTensor) or any_batched(*dots)):
            return block_kernels.tangent(block, *dots)
        geometry = _geometry(block.stride)
        z_dot = total(
            None if x_dot is None else convolution(x_dot, block.weight, None, geometry),
            None if w_dot is None else convolution(block.x, w_dot, None, geometry),
        )
        y_dot = norm_relu_pool_tangent(
            z_dot, gamma_dot, beta_dot, block.z, block.gamma, block.mean, block.scale, block.y, block.place, eps,
            block.window, block.slope,
        )  # fmt: skip
        return y_dot, z_dot


class ConvNormReLUPoolGradient(Policy):
    """ζ = z̄ + NormReLUPoolGradient(ȳ, z, γ), and x̄ = input_gradient(ζ, w), w̄ = weight_gradient(x, ζ), where output_mask
    says so.

    Its own gradient, for cotangents X, W of x̄, w̄: that of ζ is Z = X ∗ w + x ∗ W, from which NormReLUPoolGradient's
    leads to ȳ, z and γ; x's is input_gradient(ζ, W), w's weight_gradient(X, ζ).

    Its tangent: ζ̇ = z̄˙ + that of NormReLUPoolGradient along (ȳ˙, ż, γ̇), and by the product rule
    x̄˙ = input_gradient(ζ̇, w) + input_gradient(ζ, ẇ), w̄˙ = weight_gradient(x, ζ̇) + weight_gradient(ẋ, ζ).
    """

    verified = True
    once_differentiable = True

    @staticmethod
    def composition(y_bar, z_bar, block, eps, output_mask):
        x, weight, gamma, z, mean, scale, y, place, stride, window, slope = block
        geometry = _geometry(stride)
        z_total, gamma_bar, beta_bar = norm_relu_pool_gradient(
            y_bar, z, gamma, mean, scale, y, place, eps, window, slope
        )
        if z_bar is not None:
            z_total = z_total + z_bar
        bars = []
        if output_mask[0]:
            bars.append(input_gradient(z_total, weight, (tuple(x.shape), x.stride()), geometry))
        if output_mask[1]:
            bars.append(weight_gradient(x, z_total, tuple(weight.shape), geometry))
        return *bars, gamma_bar, beta_bar

    def forward(self, y_bar, z_bar, block, eps, output_mask):
        z_total, *bars = block_kernels.backward(block, y_bar, z_bar, output_mask)
        self.ctx.constant(z_total)
        self.ctx.save(*block, y_bar, z_bar is not None, z_total, *bars[2:], output_mask)
        return tuple(bar for bar in bars if bar is not None)

    def backward(self, *bars):
        *saved, y_bar, z_given, z_total, gamma_bar, beta_bar, output_mask = self.ctx.release
        block = block_kernels.Block(*saved)
        need_y_bar, *needs = self.ctx.needs_grad
        need_x, need_weight, need_gamma = needs[z_given : z_given + 3]
        *found, G, B = bars
        X = found.pop(0) if output_mask[0] else None
        W = found.pop(0) if output_mask[1] else None
        y_bar_out, z_bar_out, x_out, w_out, gamma_out, z_out = block_kernels.double_backward(
            block, y_bar, (z_total, gamma_bar, beta_bar), (X, W, G, B),
            (need_y_bar, need_x, need_weight, block.gamma is not None and need_gamma),
        )  # fmt: skip
        of_z_bar, of_gamma = [z_bar_out] if z_given else [], [] if block.gamma is None else [gamma_out]
        constants = (None,) * (3 if block.place is None else 4)  # mean, scale, y, place
        return y_bar_out, *of_z_bar, x_out, w_out, *of_gamma, z_out, *constants

    def jvp(self, y_bar_dot, *dots):
        *saved, y_bar, z_given, z_total, gamma_bar, beta_bar, output_mask = self.ctx.release
        block = block_kernels.Block(*saved)
        z_bar_dot, *rest = dots if z_given else (None, *dots)
        x_dot, w_dot, gamma_dot, z_dot, *_ = rest if block.gamma is not None else (*rest[:2], None, *rest[2:])
        x_bar, w_bar, gamma_out, beta_out = block_kernels.backward_tangent(
            block, y_bar, (z_total, gamma_bar, beta_bar), (y_bar_dot, z_bar_dot, x_dot, w_dot, gamma_dot, z_dot),
            output_mask,
        )  # fmt: skip
        bars = [bar for bar in (x_bar, w_bar) if bar is not None]
        return *bars, gamma_out, beta_out


def _geometry(stride):
    return (stride, stride), (1, 1), (1, 1), False, (0, 0), 1


conv_norm_relu_pool = function(ConvNormReLUPool, "conv_batch_norm_relu_max_pool")
conv_norm_relu_pool_gradient = function(ConvNormReLUPoolGradient, "conv_batch_norm_relu_max_pool_gradient")
