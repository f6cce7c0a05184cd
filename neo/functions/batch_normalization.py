"""Batch norm by the statistics of the batch as Policies, first and second order by hand.

Each names its composition, which is differentiated at third order. What the user calls is in normalization.py; with the
rectifier and max pooling after it, or on Neo's own kernels, it is in norm_relu_pool.py.
"""

from __future__ import annotations

import torch

from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions._tangents import total
from neo.functions.batch_moments import normalized, normalized_gradient, per_channel_shape
from neo.kernels import direct


def composed_batch_norm(x, weight, bias, eps):
    """w x̂ + b of plain functions, the statistics among them."""
    shape = per_channel_shape(x)
    mean, scale = batch_statistics(x, eps)
    y = (x - mean.reshape(shape)) * scale.reshape(shape)
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def batch_statistics(x, eps):
    """Mean and 1/√(variance + eps) of each channel, as functions of x."""
    dims = (0, *range(2, x.ndim))
    away = x - x.mean(dims, True)
    return x.mean(dims), torch.rsqrt((away * away).mean(dims) + eps)


def batch_norm_tangent(x_dot, w_dot, b_dot, x, weight, mean, scale, eps):
    """ẏ = w P(ẋ) + ẇ x̂ + ḃ for batch norm, with P as in BatchNormGradient; tangents that are zero are None."""
    shape, y_dot = per_channel_shape(x), None
    if x_dot is not None:
        y_dot = batch_norm_gradient(x_dot, x, weight, mean, scale, eps)[0]
    if w_dot is None:
        if b_dot is None:
            return y_dot
        b_dot = b_dot.reshape(shape)
        return b_dot.expand(tuple(x.shape)) if y_dot is None else direct.add(y_dot, b_dot)
    if isinstance(x, LiteTensor):
        mean, scale = batch_statistics(x, eps)
    slope = w_dot * scale
    rest = total(b_dot, -slope * mean).reshape(shape)
    return torch.addcmul(total(y_dot, rest), x, slope.reshape(shape))


class BatchNorm(Policy):
    """y = w x̂ + b,  x̂ = r (x − μ), μ and 1/r² the mean and variance + eps of each channel over the batch;
    (x̄, w̄, b̄) = batch_norm_gradient(ȳ, x, w);  ẏ = batch_norm_tangent(ẋ, ẇ, ḃ).

    μ and r are marked constant: the rule of the gradient counts in that they come from x.
    """

    verified = True
    kernel_tangent = True
    composition = staticmethod(composed_batch_norm)

    def forward(self, x, weight, bias, eps):
        y, mean, scale = normalized(x, weight, bias, eps)
        self.ctx.constant(mean, scale)
        self.ctx.save(x, weight, mean, scale, eps)
        return y

    def backward(self, y_bar):
        x, weight, mean, scale, eps = self.ctx.release
        x_bar, w_bar, b_bar = batch_norm_gradient(y_bar, x, weight, mean, scale, eps)
        if weight is not None:
            return (x_bar, w_bar, b_bar)[: len(self.ctx.needs_grad)]
        return (x_bar, b_bar)[: len(self.ctx.needs_grad)]

    def jvp(self, x_dot, *dots):
        x, weight, mean, scale, eps = self.ctx.release
        w_dot, b_dot = tangents_of_params(dots, weight)
        return batch_norm_tangent(x_dot, w_dot, b_dot, x, weight, mean, scale, eps)


class BatchNormGradient(Policy):
    """x̄ = w r (g − ⟨g⟩ − x̂ ⟨g x̂⟩),  w̄ = Σ g x̂,  b̄ = Σ g;  ⟨⟩ is the mean and Σ the sum over a channel.

    With cotangents (X, W, B) for them, P(h) = r (h − ⟨h⟩ − x̂ ⟨h x̂⟩), n entries a channel:
    ḡ = w P(X) + W x̂ + B
    x̄ = P(W g − w r (X ⟨g x̂⟩ + g ⟨X x̂⟩)) − w r² a x̂ / n
    w̄ = r a,  a = Σ X g − ΣX Σg / n − ΣX x̂ Σg x̂ / n

    Its tangent is that of (x̄, w̄, b̄) by g, in which they are linear, and by x and w, the derivatives of ⟨g, y⟩ by
    which they are: their second ones are symmetric, so that it is (x̄, w̄) above for (X, W, B) = (ẋ, ẇ, 0).
    """

    verified = True
    once_differentiable = True

    @staticmethod
    def composition(g, x, weight, mean, scale, eps):
        """μ and r anew as functions of x, which they are."""
        dims, shape = (0, *range(2, x.ndim)), per_channel_shape(x)
        mean, scale = batch_statistics(x, eps)
        normal = (x - mean.reshape(shape)) * scale.reshape(shape)
        wr = scale if weight is None else weight * scale
        x_bar = g - g.mean(dims, True) - normal * (g * normal).mean(dims, True)
        return x_bar * wr.reshape(shape), (g * normal).sum(dims), g.sum(dims)

    def forward(self, g, x, weight, mean, scale, eps):
        out = normalized_gradient(g, x, weight, mean, scale, eps)
        self.ctx.save(g, x, weight, mean, scale, out[1], out[2], eps)
        return out

    def backward(self, X, W, B):
        weight = self.ctx.release[2]
        g_bar, x_bar, w_bar = self.second_order(X, W, B, self.ctx.needs_grad[:2])
        return (g_bar, x_bar, *(() if weight is None else (w_bar,)), None, None)

    def jvp(self, g_dot, x_dot, *dots):
        _, x, weight, mean, scale, *_, eps = self.ctx.release
        w_dot = None if weight is None else dots[0]
        x_bar = w_bar = b_bar = None
        if g_dot is not None:
            x_bar, w_bar, b_bar = normalized_gradient(g_dot, x, weight, mean, scale, eps)
        if x_dot is not None or w_dot is not None:
            x_dot = torch.zeros_like(x) if x_dot is None else x_dot
            w_dot = torch.zeros_like(mean) if w_dot is None else w_dot
            _, of_x, of_w = self.second_order(x_dot, w_dot, torch.zeros_like(mean), (False, True))
            x_bar, w_bar = total(x_bar, of_x), total(w_bar, of_w)
        return x_bar, w_bar, b_bar

    def second_order(self, X, W, B, needs):
        """(ḡ, x̄, w̄) for cotangents X, W, B; needs: whether ḡ and x̄ are wanted."""
        g, x, weight, mean, scale, sum_gx, sum_g, eps = self.ctx.release
        need_g, need_x = needs
        n, shape = x.numel() // x.shape[1], per_channel_shape(x)
        P_X, sum_Xx, sum_X = normalized_gradient(X, x, weight, mean, scale, eps)
        a = (X * g).sum((0, *range(2, x.ndim))) - (sum_X * sum_g + sum_Xx * sum_gx) / n
        wr = scale if weight is None else weight * scale
        g_bar = x_bar = None
        if need_g:
            slope = W * scale
            g_bar = torch.addcmul(P_X + (B - slope * mean).reshape(shape), x, slope.reshape(shape))
        if need_x:
            # x̄ is linear in g, X and x̂: a coefficient for each, channel by channel, from sums that are there already.
            of_g = W - wr * sum_Xx / n
            of_X = -wr * sum_gx / n
            of_x = -(of_g * sum_gx + of_X * sum_Xx + wr * a) * scale * scale / n
            rest = -(of_g * sum_g + of_X * sum_X) * scale / n - of_x * mean
            x_bar = torch.addcmul(rest.reshape(shape), g, (of_g * scale).reshape(shape))
            x_bar = torch.addcmul(x_bar, X, (of_X * scale).reshape(shape))
            x_bar = torch.addcmul(x_bar, x, of_x.reshape(shape))
        return g_bar, x_bar, scale * a


def tangents_of_params(dots, weight):
    """The tangents of weight and bias, None where there is none or no such parameter."""
    w_dot, *rest = dots if weight is not None else (None, *dots)
    return w_dot, rest[0] if rest else None


batch_normalize = function(BatchNorm, "batch_norm")
batch_norm_gradient = function(BatchNormGradient, "batch_norm_gradient")
