"""Convolutions and their transposes in one, two and three dimensions.

Three maps, each linear in each of its two tensors, whose derivatives are one another: the convolution, its gradient
with respect to the input, and its gradient with respect to the weight. That closes the rule at every order.

`geometry` is (stride, padding, dilation, transposed, output_padding, groups), tuples with one number a spatial dim.
Memory format is the kernel's choice from its arguments; nothing here makes a tensor contiguous. Each map asks Neo's own
kernels first, which take channels-last 3x3 convolutions on the CPU, and those in groups of few channels, then torch's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.autograd.policy import Policy, function
from neo.functions._tangents import total
from neo.functions.registry import implements
from neo.kernels import convolution as own
from neo.kernels import large_weights

_backward = torch.ops.aten.convolution_backward.default


class Convolution(Policy):
    """y = x ∗ w + b;  x̄ = input_gradient(ȳ, w), w̄ = weight_gradient(x, ȳ), b̄ = Σ ȳ over all dims but the channels."""

    verified = True

    def forward(self, x, weight, bias, geometry):
        y = own.convolution(x, weight, bias, geometry)
        if y is None:
            y = large_weights.convolution(x, weight, bias, geometry)
        if y is None:
            (image,) = large_weights.images_beside(weight, x)
            y = torch.convolution(image, weight, bias, *geometry)
        self.ctx.save(x, weight, (tuple(x.shape), x.stride()), geometry, tuple(y.shape))
        return y

    def backward(self, y_bar):
        x, weight, layout, geometry, _ = self.ctx.release
        needs = self.ctx.needs_grad
        x_bar = input_gradient(y_bar, weight, layout, geometry) if needs[0] else None
        w_bar = weight_gradient(x, y_bar, tuple(weight.shape), geometry) if needs[1] else None
        if len(needs) == 2:
            return x_bar, w_bar
        return x_bar, w_bar, bias_gradient(y_bar) if needs[2] else None

    def jvp(self, x_dot, w_dot, b_dot=None):
        x, weight, _, geometry, shape = self.ctx.release
        if w_dot is not None:
            of_weight = convolution(x, w_dot, b_dot, geometry)
        else:
            of_weight = None if b_dot is None else at_every_pixel(b_dot, shape)
        return total(None if x_dot is None else convolution(x_dot, weight, None, geometry), of_weight)


class InputGradient(Policy):
    """x̄ = the g of a convolution pulled back through w;  ḡ = x̿ ∗ w, w̄ = weight_gradient(x̿, g)."""

    verified = True

    def forward(self, g, weight, layout, geometry):
        self.ctx.save(g, weight, layout, geometry)
        x_bar = own.input_gradient(g, weight, layout, geometry)
        if x_bar is None:
            x_bar = large_weights.input_gradient(g, weight, layout[0], geometry)
        if x_bar is not None:
            return x_bar
        x = torch.empty_strided(*layout, dtype=g.dtype, device=g.device)  # read for its layout alone
        g, x = large_weights.images_beside(weight, g, x)
        return _backward(g, x, weight, None, *geometry, [True, False, False])[0]

    def backward(self, x_bar):
        g, weight, _, geometry = self.ctx.release
        need_g, need_weight = self.ctx.needs_grad
        return (
            convolution(x_bar, weight, None, geometry) if need_g else None,
            weight_gradient(x_bar, g, tuple(weight.shape), geometry) if need_weight else None,
        )

    def jvp(self, g_dot, w_dot):
        g, weight, *where = self.ctx.release
        return total(
            None if g_dot is None else input_gradient(g_dot, weight, *where),
            None if w_dot is None else input_gradient(g, w_dot, *where),
        )


class WeightGradient(Policy):
    """w̄ = the g of a convolution correlated with x;  x̄ = input_gradient(g, w̿), ḡ = x ∗ w̿."""

    verified = True

    def forward(self, x, g, shape, geometry):
        self.ctx.save(x, g, (tuple(x.shape), x.stride()), shape, geometry)
        w_bar = own.weight_gradient(x, g, shape, geometry)
        if w_bar is None:
            w_bar = large_weights.weight_gradient(x, g, shape, geometry)
        if w_bar is not None:
            return w_bar
        weight = torch.empty(shape, dtype=g.dtype, device=g.device)  # read for its layout alone
        g, x = large_weights.images_beside(weight, g, x)
        return _backward(g, x, weight, None, *geometry, [False, True, False])[1]

    def backward(self, w_bar):
        x, g, layout, _, geometry = self.ctx.release
        need_x, need_g = self.ctx.needs_grad
        return (
            input_gradient(g, w_bar, layout, geometry) if need_x else None,
            convolution(x, w_bar, None, geometry) if need_g else None,
        )

    def jvp(self, x_dot, g_dot):
        x, g, _, *where = self.ctx.release
        return total(
            None if x_dot is None else weight_gradient(x_dot, g, *where),
            None if g_dot is None else weight_gradient(x, g_dot, *where),
        )


class BiasGradient(Policy):
    """b̄ = Σ g over all dims but the channels;  ḡ = b̿ at every pixel."""

    verified = True

    def forward(self, g):
        self.ctx.save(tuple(g.shape))
        b_bar = own.bias_gradient(g)
        return g.sum((0, *range(2, g.ndim))) if b_bar is None else b_bar

    def backward(self, b_bar):
        (shape,) = self.ctx.release
        return at_every_pixel(b_bar, shape)

    def jvp(self, g_dot):
        return bias_gradient(g_dot)


def at_every_pixel(b, shape):
    """A number for each channel, as an image of this shape."""
    return b.reshape((1, -1) + (1,) * (len(shape) - 2)).expand(shape)


convolution = function(Convolution, "conv")
bias_gradient = function(BiasGradient, "conv_bias_gradient")
input_gradient = function(InputGradient, "conv_input_gradient")
weight_gradient = function(WeightGradient, "conv_weight_gradient")


# --- torch's signatures --------------------------------------------------------------------------------------


def per_dim(value: Any, count: int) -> tuple[int, ...]:
    """A number as one number a spatial dim; a tuple as it is, a tuple of one stretched."""
    if isinstance(value, int):
        return (value,) * count
    value = tuple(value)
    return value * count if len(value) == 1 else value


def _conv(x, weight, bias, stride, padding, dilation, groups, count):
    name = f"conv{count}d"
    if bias is not None and bias.dtype is not x.dtype:
        raise RuntimeError(f"{name}: Input type ({x.dtype}) and bias type ({bias.dtype}) should be the same")
    batched = _batched(x, weight, count, name)
    stride, dilation = per_dim(stride, count), per_dim(dilation, count)
    if isinstance(padding, str):
        batched, padding = _named_padding(batched, weight, stride, padding, dilation, count, name)
    geometry = (stride, per_dim(padding, count), dilation, False, (0,) * count, groups)
    y = convolution(batched, weight, bias, geometry)
    return y if batched.ndim == x.ndim else y.squeeze(0)


def _named_padding(x, weight, stride, padding, dilation, count, name):
    """padding="valid" is none; "same" keeps the size, an odd remainder going to the end of the dim."""
    if padding == "valid":
        return x, (0,) * count
    if padding != "same":
        raise RuntimeError(f'{name}: padding must be "same", "valid", a number or a tuple, got {padding!r}')
    if any(s != 1 for s in stride):
        raise RuntimeError(f'{name}: padding="same" needs stride 1, got {stride}')
    total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if any(n % 2 for n in total):
        edges = [side for n in reversed(total) for side in (0, n % 2)]
        x = F.pad(x, edges)
    return x, tuple(n // 2 for n in total)


def _batched(x, weight, count, name):
    if weight.ndim != count + 2:
        raise RuntimeError(f"{name}: expected a weight of {count + 2} dims, got shape {tuple(weight.shape)}")
    if x.ndim not in (count + 1, count + 2):
        raise RuntimeError(
            f"{name}: expected an input of {count + 1} (unbatched) or {count + 2} dims, got shape "
            f"{tuple(x.shape)}"
        )
    return x if x.ndim == count + 2 else x.unsqueeze(0)


@implements(F.conv1d)
def conv1d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """x (n, in, l), weight (out, in/groups, k) -> (n, out, l′)."""
    return _conv(x, weight, bias, stride, padding, dilation, groups, 1)


@implements(F.conv2d)
def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """x (n, in, h, w), weight (out, in/groups, kh, kw) -> (n, out, h′, w′)."""
    return _conv(x, weight, bias, stride, padding, dilation, groups, 2)


@implements(F.conv3d)
def conv3d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """x (n, in, d, h, w), weight (out, in/groups, kd, kh, kw) -> (n, out, d′, h′, w′)."""
    return _conv(x, weight, bias, stride, padding, dilation, groups, 3)


def _conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation, count):
    batched = _batched(x, weight, count, f"conv_transpose{count}d")
    geometry = (
        per_dim(stride, count),
        per_dim(padding, count),
        per_dim(dilation, count),
        True,
        per_dim(output_padding, count),
        groups,
    )
    y = convolution(batched, weight, bias, geometry)
    return y if batched.ndim == x.ndim else y.squeeze(0)


@implements(F.conv_transpose1d)
def conv_transpose1d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """The adjoint of conv1d in x; weight (in, out/groups, k)."""
    return _conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation, 1)


@implements(F.conv_transpose2d)
def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """The adjoint of conv2d in x; weight (in, out/groups, kh, kw)."""
    return _conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation, 2)


@implements(F.conv_transpose3d)
def conv_transpose3d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """The adjoint of conv3d in x; weight (in, out/groups, kd, kh, kw)."""
    return _conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation, 3)
