"""Means over the pixels of an image on Neo's kernels, and their adjoint: torch.Tensors in and out."""

from __future__ import annotations

from neo import kernels
from neo.kernels import direct
from neo.kernels.operands import plain

__all__ = ["pixel_means", "spread_means"]


def pixel_means(x):
    """(n, channels): the mean over the pixels of each image; by torch's kernel where this one does not take x."""
    kernels.refuse_transforms()
    if not kernels.library.takes(x):
        return x.mean((2, 3))
    means = direct.empty(x.shape[:2], x.dtype, False)
    kernels.library.pixel_means(z=x, means=means)
    return means


def spread_means(means, height, width):
    """The adjoint of pixel_means: (n, channels, height, width), means / pixels at each pixel."""
    kernels.refuse_transforms()
    if not (means.numel() and kernels.fits(means.shape[1], means.dtype) and means.device.type == "cpu"):
        return (means / (height * width))[:, :, None, None].expand(*means.shape, height, width)
    x = direct.empty((*means.shape, height, width), means.dtype, True)
    kernels.library.spread_means(means=plain(means, means.dtype), z=x)
    return x
