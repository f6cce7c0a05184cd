"""Batch norm by the statistics of the batch, alone and with the rectifier and max pooling after it.

First and second order are by hand; each Policy names its composition, which is differentiated at third order. Neo's own
kernels compute where they are ready (neo/kernels/batch_norm.py), torch's elsewhere. Torch's channels-last ones sum all
pixels of a channel one after the other in float32: 60 000 of them lose two to three digits, which a meta-gradient
multiplies further. The remedy costs nothing: seen as `pieces * channels` channels of `pixels / pieces` pixels each, the
same memory goes through the same kernels as many short sums, which are then combined (Chan, Golub and LeVeque 1983,
"Algorithms for computing the sample variance"). Plain layouts are summed in float64 by torch itself.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from neo.autograd._batched import any_batched, is_batched
from neo.autograd._queries import autocast_enabled
from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.errors import InPlaceError
from neo.functions import chosen_statistics
from neo.functions._tangents import total
from neo.functions.activations import rectified_by
from neo.functions.pooling import from_places, to_places
from neo.functions.registry import implements, raw
from neo.kernels import batch_norm as batch_norm_kernels
from neo.kernels import direct

__all__ = ["batch_norm", "batch_norm_as_called", "batch_norm_relu", "batch_norm_relu_max_pool"]

MOST_PIECES = 256
FEW_PIXELS = 256  # a channel's sum of so few loses nothing worth a second kernel

_native = torch.native_batch_norm
_backward = torch.ops.aten.native_batch_norm_backward.default
_max_pool2d = torch.ops.aten.max_pool2d_with_indices.default


# --- the numbers, by torch's kernels --------------------------------------------------------------------------------


def in_pieces(x: torch.Tensor) -> bool:
    """Whether x (n, c, h, w), float32 or float64, is stored channels-last on the CPU, and has many pixels."""
    return (
        x.ndim == 4
        and x.dtype in (torch.float32, torch.float64)
        and x.stride(1) == 1
        and x.numel() > FEW_PIXELS * x.shape[1]
        and x.device.type == "cpu"
        and not is_batched(x)
        and x.is_contiguous(memory_format=torch.channels_last)
    )


@functools.lru_cache(maxsize=256)
def pieces_of(pixels: int) -> int:
    """Into how many equal pieces to cut: the largest divisor up to MOST_PIECES and √pixels."""
    return max(k for k in range(1, min(MOST_PIECES, int(pixels**0.5)) + 1) if pixels % k == 0)


def cut(x: torch.Tensor, pieces: int) -> torch.Tensor:
    """(n, c, h, w), channels-last, seen as (1, pieces * c, pixels / pieces, 1), channels-last too."""
    wide = pieces * x.shape[1]
    return x.as_strided((1, wide, x.numel() // wide, 1), (x.numel(), 1, wide, wide))


def _tiled(row: torch.Tensor, pieces: int) -> torch.Tensor:
    """(c,) as (pieces * c,), several times as fast as repeat."""
    return row.expand(pieces, -1).reshape(-1)


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each channel, (c,) each, of a channels-last x. Reads x once."""
    pieces = pieces_of(x.numel() // x.shape[1])
    means, variances = (
        part.view(pieces, -1) for part in torch.batch_norm_update_stats(cut(x, pieces), None, None, 0.0)
    )
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square_().mean(0)


def expect_channels(where, channels, **params):
    """RuntimeError, in torch's words, for a parameter that does not hold one number for each channel.

    torch.batch_norm asks before it calls its kernels, which do not: they read past the end.
    """
    for name, param in params.items():
        if param is not None and param.numel() != channels:
            raise RuntimeError(f"{where}{name} should contain {channels} elements not {param.numel()}")


def _dense(param):
    """torch's channels-last kernels read a strided parameter as if its numbers lay side by side."""
    return None if param is None else param.contiguous()


def normalized(x, weight, bias, eps):
    """(y, μ, r): y = w r (x − μ) + b, μ the mean of each channel and r = 1/√(variance + eps)."""
    expect_channels("", x.shape[1], weight=weight, bias=bias)
    weight, bias = _dense(weight), _dense(bias)
    if not in_pieces(x):
        return _native(x, weight, bias, None, None, True, 0.0, eps)
    mean, variance = moments(x)
    y = _native(x, weight, bias, mean, variance, False, 0.0, eps)[0]
    return y, mean, torch.rsqrt(variance.add_(eps))


def normalized_gradient(g, x, weight, mean, scale, eps):
    """(x̄, w̄, b̄) = (w r (g − ⟨g⟩ − x̂ ⟨g x̂⟩), Σ g x̂, Σ g) for x̂ = r (x − μ)."""
    weight, mean, scale = _dense(weight), _dense(mean), _dense(scale)
    if any_batched(g, x, weight):
        return _gradient_of_example(g, x, weight, mean, scale)
    if not in_pieces(x):
        return _backward(g, x, weight, None, None, mean, scale, True, eps, [True, True, True])
    g = g.contiguous(memory_format=torch.channels_last)
    pixels = x.numel() // x.shape[1]
    pieces = pieces_of(pixels)
    _, sum_gx, sum_g = _backward(
        cut(g, pieces), cut(x, pieces), None, None, None, _tiled(mean, pieces), _tiled(scale, pieces), True, eps,
        [False, True, True],
    )  # fmt: skip
    sum_gx, sum_g = sum_gx.view(pieces, -1).sum(0), sum_g.view(pieces, -1).sum(0)
    wr = scale if weight is None else weight * scale
    share = wr / -pixels
    x_bar = _native(x, share * sum_gx, share * sum_g, mean, scale.pow(-2), False, 0.0, 0.0)[0]
    return x_bar.addcmul_(g, wr.view(1, -1, 1, 1)), sum_gx, sum_g


def _gradient_of_example(g, x, weight, mean, scale):
    """The same from plain ops, for vmap: torch's batched form of its kernel crashes where weight is None."""
    dims = (0, *range(2, x.ndim))
    shape = per_channel_shape(x)
    pixels = x.numel() // x.shape[1]
    normal = (x - mean.view(shape)) * scale.view(shape)
    sum_gx, sum_g = (g * normal).sum(dims), g.sum(dims)
    wr = scale if weight is None else weight * scale
    rest = g - (normal * sum_gx.view(shape) + sum_g.view(shape)) / pixels
    return rest * wr.view(shape), sum_gx, sum_g


# --- Policies -------------------------------------------------------------------------------------------------------


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


def per_channel_shape(x):
    """In which a number for each channel of x broadcasts to it."""
    return (1, -1) + (1,) * (x.ndim - 2)


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
        w_dot, b_dot = _of_params(dots, weight)
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
        w_dot, b_dot = _of_params(dots, weight)
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
        w_dot, b_dot = _of_params(dots, weight)
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


def _of_params(dots, weight):
    """The tangents of weight and bias, None where there is none or no such parameter."""
    w_dot, *rest = dots if weight is not None else (None, *dots)
    return w_dot, rest[0] if rest else None


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


batch_normalize = function(BatchNorm, "batch_norm")
batch_norm_gradient = function(BatchNormGradient, "batch_norm_gradient")
norm_relu_pool_on_torch = function(BatchNormReLUMaxPool, "batch_norm_relu_max_pool")
norm_relu_pool = function(NormReLUPool, "batch_norm_relu_max_pool")
norm_relu_pool_gradient = function(NormReLUPoolGradient, "batch_norm_relu_max_pool_gradient")


# --- functions ------------------------------------------------------------------------------------------------------


@implements(F.batch_norm, only=True, name="batch_norm")
def batch_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """Each channel (dim 1) of x brought to mean 0 and variance 1, then scaled by weight and shifted by bias.

    training=True: by the statistics of the batch, biased variance. training=False: by running_mean and running_var.
    Neo never writes in place, so that running statistics are not updated; momentum is there for torch's signature.
    A block of neo.functions.chosen_statistics around the call may choose other statistics.
    Raises: InPlaceError for running statistics with training=True; ValueError for a batch of one value a channel.
    """
    if chosen_statistics.chosen():
        call = chosen_statistics.Call(x, running_mean, running_var, weight, bias, training, momentum, eps)
        return chosen_statistics.applied(call)
    return batch_norm_as_called(x, running_mean, running_var, weight, bias, training, eps)


def batch_norm_as_called(
    x, running_mean=None, running_var=None, weight=None, bias=None, training=False, eps=1e-5
):
    """batch_norm by the statistics that its arguments name, whatever block is around."""
    if x.ndim < 2:
        raise NotImplementedError(
            f"batch_norm: expected an input (n, channels, *space), got shape {tuple(x.shape)}"
        )
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError(
                "batch_norm: training=False normalises by running_mean and running_var, got None; "
                "give them, or pass training=True to use the statistics of the batch"
            )
        given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
        expect_channels("batch_norm: ", x.shape[1], **given)
        return _by_running_statistics(x, running_mean, running_var, weight, bias, eps)
    if running_mean is not None or running_var is not None:
        raise InPlaceError(
            "batch_norm: training=True would update running_mean and running_var in place, and Neo never writes in "
            "place. Pass running_mean=None, running_var=None, and compute running statistics apart."
        )
    if x.numel() == x.shape[1]:
        raise ValueError(
            f"batch_norm: expected more than 1 value per channel when training, got input size {x.shape}"
        )
    expect_channels("batch_norm: ", x.shape[1], weight=weight, bias=bias)
    weight, bias = (
        param if param is None or param.ndim == 1 else param.reshape(-1) for param in (weight, bias)
    )
    if not autocast_enabled() and batch_norm_kernels.ready(raw(x), raw(weight), raw(bias), 1):
        return norm_relu_pool(x, weight, bias, eps, 1, 1.0)
    return batch_normalize(x, weight, bias, eps)


def _by_running_statistics(x, mean, var, weight, bias, eps):
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = per_channel_shape(x)
    return x * scale.reshape(shape) + shift.reshape(shape)


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
