"""Convolutions and their gradients by Neo's kernels: torch.Tensors in, torch.Tensors out, None where torch serves.

Those of 3x3 without groups are here, those in groups in group_convolution.py.

geometry is (stride, padding, dilation, transposed, output_padding, groups), as in neo/functions/convolution.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from neo import kernels
from neo.kernels import direct, group_convolution
from neo.kernels.operands import last, per_channel, plain

__all__ = ["bias_gradient", "convolution", "enough_pixels", "input_gradient", "weight_gradient"]

# A weight of so many entries is faster on torch's kernels where all images together have fewer pixels than this:
# docs/benchmarks.md, "Any module".
LARGE, PIXELS = 1 << 17, 256

_STRIDES = {
    ((stride, stride), (1, 1), (1, 1), False, (0, 0), 1): stride for stride in (1, 2)
}  # what the kernels compute: padding 1, nothing dilated, no groups


def convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Any
) -> torch.Tensor | None:
    """x ∗ weight + bias; x (n, in, h, w), weight (out, in / groups, kh, kw)."""
    if geometry[-1] != 1:
        return group_convolution.convolution(x, weight, bias, geometry)
    stride = _stride(weight.shape, weight.dtype, x.shape, geometry)
    if not stride or not kernels.ready(x) or not _alike(x, weight) or x.shape[1] != weight.shape[1]:
        return None
    if not per_channel(bias, weight.shape[0], x):
        return None
    n, _, h, w = x.shape
    y = _image((n, weight.shape[0], (h - 1) // stride + 1, (w - 1) // stride + 1), x.dtype)
    kernels.library.convolution(
        x=x, weight=last(weight, x.dtype), bias=plain(bias, x.dtype), z=y, stride=stride
    )
    return y


def input_gradient(g: torch.Tensor, weight: torch.Tensor, layout: Any, geometry: Any) -> torch.Tensor | None:
    """The gradient of x, whose layout was (shape, strides), from that of x ∗ weight."""
    if geometry[-1] != 1:
        return group_convolution.input_gradient(g, weight, layout, geometry)
    shape, strides = layout
    stride = _stride(weight.shape, weight.dtype, shape, geometry)
    if not stride or strides[1] != 1 or not kernels.available() or not _alike(g, weight):
        return None
    if not _is_output(g, shape, weight.shape, stride):
        return None
    x = _image(shape, g.dtype)
    kernels.library.convolution_input(
        z_bar=last(g, g.dtype), weight=last(weight, g.dtype), x_bar=x, stride=stride
    )
    return x


def weight_gradient(x: torch.Tensor, g: torch.Tensor, shape: Any, geometry: Any) -> torch.Tensor | None:
    """The gradient of the weight, of this shape, from x and the gradient of x ∗ weight."""
    if geometry[-1] != 1:
        return group_convolution.weight_gradient(x, g, shape, geometry)
    stride = _stride(shape, g.dtype, x.shape, geometry)
    if not stride or not kernels.ready(x) or not _alike(x, g) or not _is_output(g, x.shape, shape, stride):
        return None
    weight = _image(shape, g.dtype)
    kernels.library.convolution_weight(x=x, z_bar=last(g, g.dtype), w_bar=weight, stride=stride)
    return weight


def bias_gradient(g: torch.Tensor) -> torch.Tensor | None:
    """Σ g over all but the channels."""
    if not kernels.ready(g):
        return None
    sums = direct.empty((g.shape[1],), g.dtype, False)
    kernels.library.convolution_bias(z_bar=g, b_bar=sums)
    return sums


def _stride(shape: Any, dtype: torch.dtype, image: Any, geometry: Any) -> int | None:
    """The stride, if the kernels have this convolution for weights of this shape, and are faster at it; else None."""
    stride = _STRIDES.get(geometry)
    if stride is None or len(shape) != 4 or len(image) != 4 or shape[2] != 3 or shape[3] != 3:
        return None
    if not enough_pixels(image, shape):
        return None
    return stride if kernels.fits(shape[0], dtype) and kernels.fits(shape[1], dtype) else None


def enough_pixels(image: Any, weight: Any) -> bool:
    """Whether images of this shape outweigh what is done for a weight of that shape alone, or it is small.

    Winograd's algorithm brings the weight to another form first, and its tiles of 4x4 overhang smaller images.
    """
    n, _, h, w = image
    return n * h * w >= PIXELS or weight[0] * weight[1] * 9 < LARGE


def _alike(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether both are of one dtype, in the CPU's memory; torch says what is wrong where one is not.

    A FakeTensor says that it is on the CPU, and has no memory.
    """
    return (
        x.dtype is y.dtype
        and x.device.type == y.device.type == "cpu"
        and x.layout is y.layout
        and not isinstance(x, FakeTensor)
    )


def _is_output(g: torch.Tensor, image: Any, weight: Any, stride: int) -> bool:
    """Whether g has the shape of the convolution's output from an image and a weight of these shapes; not empty."""
    n, inputs, h, w = image
    down, across = (h - 1) // stride + 1, (w - 1) // stride + 1
    return g.numel() > 0 and inputs == weight[1] and tuple(g.shape) == (n, weight[0], down, across)


def _image(shape: Any, dtype: torch.dtype) -> torch.Tensor:
    return direct.empty(tuple(shape), dtype, True)
