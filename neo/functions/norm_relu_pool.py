"""Batch norm, a rectifier and max pooling as one Policy: on torch's kernels, and on Neo's own where they are ready.

First and second order are by hand; at third order the composition is differentiated. A window of 1 is no pooling, a
slope of 1 no rectifier, so that batch norm alone goes through Neo's kernels here too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neo.autograd._batched import any_batched
from neo.autograd._queries import autocast_enabled
from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions._tangents import total
from neo.functions.activations import rectified_by
from neo.functions.batch_moments import normalized
from neo.functions.batch_normalization import (
    batch_norm_gradient,
    batch_norm_tangent,
    composed_batch_norm,
    tangents_of_params,
)
from neo.functions.pooling import from_places, to_places
from neo.functions.registry import raw
from neo.kernels import batch_norm as batch_norm_kernels

__all__ = ["batch_norm_relu", "batch_norm_relu_max_pool"]

_max_pool2d = torch.ops.aten.max_pool2d_with_indices.default


# --- Policies -------------------------------------------------------------------------------------------------------


def composed_norm_relu_pool(x, weight, bias, eps, window, slope):
    """Of the functions one after the other; window 1 is no pooling, slope 0 a ReLU, 1 no rectifier."""
    y = composed_batch_norm(x, weight, bias, eps)
    y = torch.relu(y) if slope == 0 else y if slope == 1 else F.leaky_relu(y, slope)
    return y if window == 1 else F.max_pool2d(y, window)


class BatchNormReLUMaxPool(Policy):
    """y = max(m, 0) + slope min(m, 0), m = the largest bn(x) of a window;  g = ȳ where y > 0, slope ȳ elsewhere, at the
    places of the maxima, through bn's gradient.

    max over windows and the rectifier, which does not fall, commute, so that the latter, forward and backward, works on
    the pooled image: a quarter of the entries for 2x2 windows. The normalised image is rectified where it lies and not
    kept beside y.
    """

    verified = True
    kernel_tangent = True
    composition = staticmethod(composed_norm_relu_pool)

    def forward(self, x, weight, bias, eps, window, slope):
        y, mean, scale = normalized(x, weight, bias, eps)
        places = pooling = None
        if window != 1:
            size = (window, window)
            pooling = (tuple(y.shape), y.stride()), (size, size, (0, 0), (1, 1), False)
            y, places = _max_pool2d(y, *pooling[1])
        if slope != 1:
            torch.relu_(y) if slope == 0 else F.leaky_relu_(y, slope)
        self.ctx.constant(mean, scale)
        self.ctx.save(x, weight, mean, scale, eps, y, places, pooling, slope)
        return y

    def backward(self, y_bar):
        x, weight, mean, scale, eps, y, places, pooling, slope = self.ctx.release
        g = rectified_by(y_bar, y, slope)
        g = g if places is None else to_places(g, places, *pooling)
        x_bar, w_bar, b_bar = batch_norm_gradient(g, x, weight, mean, scale, eps)
        return (x_bar, b_bar) if weight is None else (x_bar, w_bar, b_bar)

    def jvp(self, x_dot, *dots):
        x, weight, mean, scale, eps, y, places, pooling, slope = self.ctx.release
        w_dot, b_dot = tangents_of_params(dots, weight)
        y_dot = batch_norm_tangent(x_dot, w_dot, b_dot, x, weight, mean, scale, eps)
        return rectified_by(y_dot if places is None else from_places(y_dot, places, *pooling), y, slope)


class NormReLUPool(Policy):
    """The same on Neo's own kernels;  (x̄, w̄, b̄) = NormReLUPoolGradient(ȳ, x, w, μ, r, y)."""

    verified = True
    kernel_tangent = True
    composition = staticmethod(composed_norm_relu_pool)

    def forward(self, x, weight, bias, eps, window, slope):
        y, place, mean, scale = batch_norm_kernels.norm(x, weight, bias, eps, window, slope)
        self.ctx.constant(mean, scale)
        self.ctx.save(x, weight, mean, scale, y, place, eps, window, slope)
        return y

    def backward(self, y_bar):
        x, *saved = self.ctx.release
        weight = saved[0]
        x_bar, w_bar, b_bar = norm_relu_pool_gradient(y_bar, x, *saved)
        return (x_bar, b_bar) if weight is None else (x_bar, w_bar, b_bar)

    def jvp(self, x_dot, *dots):
        x, weight, *saved = self.ctx.release
        w_dot, b_dot = tangents_of_params(dots, weight)
        return norm_relu_pool_tangent(x_dot, w_dot, b_dot, x, weight, *saved)


class NormReLUPoolGradient(Policy):
    """x̄ = w r (g − ⟨g⟩ − x̂ ⟨g x̂⟩), w̄ = Σ g x̂, b̄ = Σ g, for g = ȳ through the rectifier at the
    pixels y came from, 0 elsewhere.

    Its own gradient and tangent are BatchNormGradient's, with g read and written at those pixels alone; they and the
    sign of y are constants.
    """

    verified = True
    once_differentiable = True

    @staticmethod
    def composition(y_bar, x, weight, mean, scale, y, place, eps, window, slope):
        g = at_places(rectified_by(y_bar, y, slope), place, (tuple(x.shape), x.stride()), window)
        return batch_norm_gradient(g, x, weight, mean, scale, eps)

    def forward(self, y_bar, x, weight, mean, scale, y, place, eps, window, slope):
        out = batch_norm_kernels.norm_backward(y_bar, y, place, x, weight, mean, scale, window, slope)
        self.ctx.save(y_bar, x, weight, mean, scale, y, place, out[1], out[2], window, slope)
        return out

    def backward(self, X, W, B):
        y_bar, x, weight, mean, scale, y, place, sum_gx, sum_g, window, slope = self.ctx.release
        need_y_bar, need_x, *rest = self.ctx.needs_grad
        y_bar_out, x_out, w_out = batch_norm_kernels.norm_double_backward(
            X, W, B, y_bar, y, place, x, weight, mean, scale, sum_gx, sum_g, window, slope,
            (need_y_bar, need_x, weight is not None and rest[0]),
        )  # fmt: skip
        constants = (None,) * (3 if place is None else 4)  # mean, scale, y, place
        return (y_bar_out, x_out, *(() if weight is None else (w_out,)), *constants)

    def jvp(self, y_bar_dot, x_dot, *dots):
        y_bar, x, weight, mean, scale, y, place, sum_gx, sum_g, window, slope = self.ctx.release
        w_dot = None if weight is None else dots[0]
        x_bar = w_bar = b_bar = None
        if y_bar_dot is not None:
            x_bar, w_bar, b_bar = batch_norm_kernels.norm_backward(
                y_bar_dot, y, place, x, weight, mean, scale, window, slope
            )
        if x_dot is not None or w_dot is not None:
            x_dot = torch.zeros_like(x) if x_dot is None else x_dot
            _, of_x, of_w = batch_norm_kernels.norm_double_backward(
                x_dot, w_dot, None, y_bar, y, place, x, weight, mean, scale, sum_gx, sum_g, window, slope,
                (False, True, True),
            )  # fmt: skip
            x_bar, w_bar = total(x_bar, of_x), total(w_bar, of_w)
        return x_bar, w_bar, b_bar


def norm_relu_pool_tangent(x_dot, w_dot, b_dot, x, weight, mean, scale, y, place, eps, window, slope):
    """ẏ = batch_norm_tangent where y came from, through the rectifier: by Neo's kernel, or of functions."""
    if isinstance(x, LiteTensor) or any_batched(x_dot, w_dot, b_dot):
        y_dot = batch_norm_tangent(x_dot, w_dot, b_dot, x, weight, mean, scale, eps)
        if window != 1:
            y_dot = from_places(y_dot, *windows_of(place, (tuple(x.shape), x.stride()), window))
        return rectified_by(y_dot, y, slope)
    x_dot = torch.zeros_like(x) if x_dot is None else x_dot
    return batch_norm_kernels.norm_double_backward(
        x_dot,
        w_dot,
        b_dot,
        None,
        y,
        place,
        x,
        weight,
        mean,
        scale,
        None,
        None,
        window,
        slope,
        (True, False, False),
    )[0]


def at_places(g, place, layout, window):
    """An image of this layout, (shape, strides), 0 but for the pixels that `place` names, where g is."""
    return g if window == 1 else to_places(g, *windows_of(place, layout, window))


def windows_of(place, layout, window):
    """What to_places and from_places take, for `place` as neo/kernels/batch_norm.py has it."""
    place, (*_, h, w) = raw(place), layout[0]
    rows = torch.arange(h // window, device=place.device).view(-1, 1) * window + place // window
    columns = torch.arange(w // window, device=place.device) * window + place % window
    size = (window, window)
    return rows * w + columns, layout, (size, size, (0, 0), (1, 1), False)


norm_relu_pool_on_torch = function(BatchNormReLUMaxPool, "batch_norm_relu_max_pool")
norm_relu_pool = function(NormReLUPool, "batch_norm_relu_max_pool")
norm_relu_pool_gradient = function(NormReLUPoolGradient, "batch_norm_relu_max_pool_gradient")


# --- functions ------------------------------------------------------------------------------------------------------


def batch_norm_relu(x, weight, bias, eps=1e-5, negative_slope=0.0):
    """leaky_relu(batch_norm(x, None, None, weight, bias, training=True), negative_slope) as one op.

    x (n, c, ...); weight may be None; negative_slope from 0, a ReLU, to 1, no rectifier at all.
    """
    if autocast_enabled():  # which gives each op a dtype of its own
        y = F.batch_norm(x, None, None, weight, bias, True, eps=eps)
        return torch.relu(y) if negative_slope == 0 else F.leaky_relu(y, negative_slope)
    return _norm_relu_pool(x, weight, bias, eps, 1, negative_slope)


def batch_norm_relu_max_pool(x, weight, bias, kernel=2, eps=1e-5, negative_slope=0.0):
    """max_pool2d(batch_norm_relu(x, weight, bias), kernel) as one op. x (n, c, h, w); weight may be None."""
    if autocast_enabled():
        return F.max_pool2d(batch_norm_relu(x, weight, bias, eps, negative_slope), kernel)
    return _norm_relu_pool(x, weight, bias, eps, kernel, negative_slope)


def _norm_relu_pool(x, weight, bias, eps, window, slope):
    own = batch_norm_kernels.ready(raw(x), raw(weight), raw(bias), window)
    return (norm_relu_pool if own else norm_relu_pool_on_torch)(x, weight, bias, eps, window, float(slope))
