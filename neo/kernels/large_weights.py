"""Convolutions whose weight is larger than their images, as products of patches and weights: None where torch serves.

Deep in a network images are of one or a few pixels, and weights of a million numbers. oneDNN then spends its time on
bringing the weight into a layout of its own, and the gradient out of it; a product of matrices reads and writes the
weight once, as it lies. Contiguous weights of float32 and float64 on the CPU, without groups; numbers differ from
torch's by rounding alone. geometry: as in neo/functions/convolution.py.
"""

from __future__ import annotations

from typing import Any

import torch

from neo import kernels
from neo.kernels import direct

__all__ = ["convolution", "images_beside", "input_gradient", "weight_gradient"]

LARGE = 1 << 18  # entries of a weight from which on its layout counts (docs/benchmarks.md, "Any module")
# Pixels of all images together, up to which the weight's gradient and the others are faster so.
FEW, FEWEST = 100, 20

_patches = torch.ops.aten.im2col.default
_add_patches = torch.ops.aten.col2im.default


def images_beside(weight: torch.Tensor, *images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The images as torch's kernels are to have them: contiguous beside a contiguous weight that is the larger.

    Otherwise torch brings the weight to the layout of the images.
    """
    if weight.ndim != 4 or weight.numel() < LARGE or not kernels.available() or not weight.is_contiguous():
        return images
    return tuple(
        _contiguous(image) if image.device.type == "cpu" and image.numel() < weight.numel() else image
        for image in images
    )


def _contiguous(image: torch.Tensor) -> torch.Tensor:
    """The image with the strides of a contiguous one: an image of 1x1 is contiguous with those of channels-last too."""
    image = image.contiguous()
    _, c, h, w = image.shape
    strides = (c * h * w, h * w, w, 1)
    return image if image.stride() == strides else image.as_strided(image.shape, strides)


def convolution(x: torch.Tensor, weight: torch.Tensor, bias: Any, geometry: Any) -> torch.Tensor | None:
    """x ∗ weight; x (n, in, h, w), weight (out, in, kh, kw)."""
    if bias is not None or not _takes(x, weight, weight.shape, geometry) or not weight.is_contiguous():
        return None
    if x.shape[1] != weight.shape[1]:
        return None
    stride, padding, dilation, *_ = geometry
    height, width = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip(x.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True)
    )
    if height < 1 or width < 1 or not 0 < x.shape[0] * height * width <= FEWEST:
        return None
    rows = _rows(_patches(x, weight.shape[2:], dilation, padding, stride))
    y = direct.product(rows, weight.view(weight.shape[0], -1), False, True).view(
        x.shape[0], height * width, -1
    )
    return y.transpose(1, 2).reshape(x.shape[0], -1, height, width)


def input_gradient(g: torch.Tensor, weight: torch.Tensor, shape: Any, geometry: Any) -> torch.Tensor | None:
    """The gradient of x, of this shape, from that of x ∗ weight."""
    if not 0 < _pixels(g) <= FEWEST or not _takes(g, weight, weight.shape, geometry):
        return None
    if not weight.is_contiguous():
        return None
    stride, padding, dilation, *_ = geometry
    patches = direct.product(_rows(g.flatten(2)), weight.view(weight.shape[0], -1), False, False)
    patches = patches.view(g.shape[0], -1, patches.shape[1]).transpose(1, 2)
    return _add_patches(patches, shape[2:], weight.shape[2:], dilation, padding, stride)


def weight_gradient(x: torch.Tensor, g: torch.Tensor, shape: Any, geometry: Any) -> torch.Tensor | None:
    """The gradient of the weight, of this shape, from x and the gradient of x ∗ weight."""
    if not 0 < _pixels(g) <= FEW or not _takes(x, g, shape, geometry):
        return None
    stride, padding, dilation, *_ = geometry
    rows = _rows(_patches(x, shape[2:], dilation, padding, stride))
    return direct.product(_rows(g.flatten(2)), rows, True, False).view(shape)


def _takes(image: torch.Tensor, other: torch.Tensor, shape: Any, geometry: Any) -> bool:
    """Whether these are tensors for a product; `shape` is that of the weight."""
    *_, transposed, _, groups = geometry
    return (
        image.ndim == other.ndim == len(shape) == 4
        and shape[0] * shape[1] * shape[2] * shape[3] >= LARGE
        and not transposed
        and groups == 1
        and image.dtype is other.dtype
        and image.dtype in (torch.float32, torch.float64)
        and image.device.type == other.device.type == "cpu"
        and kernels.available()
    )


def _pixels(g: torch.Tensor) -> int:
    return g.numel() // g.shape[1] if g.ndim == 4 and g.shape[1] else 0


def _rows(image: torch.Tensor) -> torch.Tensor:
    """(n, channels, pixels) → (n * pixels, channels)."""
    return image.transpose(1, 2).reshape(-1, image.shape[1])
