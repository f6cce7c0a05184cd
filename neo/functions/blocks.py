"""A block of a convolutional net as one Policy on Neo's own CPU kernels (neo.kernels), first and second order by hand.

Convolution, batch norm, ReLU and max pooling. fused.py chooses it where the kernels are ready. At third order the
gradient's composition is differentiated, of functions that each have their rule at every order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neo.autograd.policy import Policy, function
from neo.functions.batch_normalization import composed_norm_relu_pool, norm_relu_pool_gradient
from neo.functions.convolution import input_gradient, weight_gradient
from neo.kernels import block as block_kernels

__all__ = ["conv_norm_relu_pool"]


class ConvNormReLUPool(Policy):
    """z = x ∗ w + b, y = max over windows of max(bn(z), 0);  (x̄, w̄, γ̄, β̄) = ConvNormReLUPoolGradient(ȳ, z̄, x, w, γ, z).

    b̄ = 0, for the mean takes b away. z is an output for the gradient's sake, which is a function of it: its cotangent
    there joins ȳ's here, and goes through the convolution once. (It sums to 0 over each channel, whose shift changes
    nothing, so that b̄ stays 0.) Otherwise nobody uses z, and z̄ is None.
    """

    verified = True
    materialize = False

    @staticmethod
    def composition(x, weight, bias, gamma, beta, eps, stride, window):
        z = F.conv2d(x, weight, bias, stride, 1)
        return composed_norm_relu_pool(z, gamma, beta, eps, window), z

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
    way back leads to ȳ, z and γ; x's is input_gradient(ζ, W), w's weight_gradient(X, ζ).
    """

    verified = True
    once_differentiable = True

    @staticmethod
    def composition(y_bar, z_bar, x, weight, gamma, z, mean, scale, y, place, eps, stride, window, asked):
        geometry = ((stride, stride), (1, 1), (1, 1), False, (0, 0), 1)
        of_z, gamma_bar, beta_bar = norm_relu_pool_gradient(
            y_bar, z, gamma, mean, scale, y, place, eps, window
        )
        if z_bar is not None:
            of_z = of_z + z_bar
        bars = []
        if asked[0]:
            bars.append(input_gradient(of_z, weight, (tuple(x.shape), x.stride()), geometry))
        if asked[1]:
            bars.append(weight_gradient(x, of_z, tuple(weight.shape), geometry))
        return *bars, gamma_bar, beta_bar

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
        gamma_bar, beta_bar, _, stride, window, asked = rest
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
            *(None,) * (3 if place is None else 4),  # mean, scale, y, place
        )


conv_norm_relu_pool = function(ConvNormReLUPool, "conv_batch_norm_relu_max_pool")
conv_norm_relu_pool_gradient = function(ConvNormReLUPoolGradient, "conv_batch_norm_relu_max_pool_gradient")
