"""Batch norm by the batch's statistics, ReLU and pooling on Neo's kernels: torch.Tensors in and out.

x (n, channels, h, w) channels-last, and ready (neo.kernels.ready); window 1 is no pooling. `place` says, a byte an
entry of y, which pixel of its window it was, row by row; None without pooling.
"""

from __future__ import annotations

import torch

from neo import kernels
from neo.kernels import direct
from neo.kernels.operands import last, plain

__all__ = ["largest_window", "norm", "norm_gradient", "norm_gradient_back", "pixel_means", "spread_means"]

largest_window = 15  # its places fit a byte


def norm(x, weight, bias, eps, window):
    """(y, place, μ, r): y = max over each window of max(w r (x − μ) + b, 0)."""
    n, channels, h, w = x.shape
    shape = (n, channels, h // window, w // window)
    y = direct.empty(shape, x.dtype, True)
    place = direct.empty(shape, torch.uint8, True) if window > 1 else None
    mean, scale = (direct.empty((channels,), x.dtype, False) for _ in range(2))
    kernels.library.norm(x, plain(weight, x.dtype), plain(bias, x.dtype), y, place, mean, scale, eps, window)
    return y, place, mean, scale


def norm_gradient(y_bar, y, place, x, weight, mean, scale, window):
    """(x̄, Σ g x̂, Σ g) for g, the cotangent of y at the pixels it came from; the latter two are w̄ and b̄."""
    kernels.refuse_transforms()
    x_bar = direct.empty(x.shape, x.dtype, True)
    sum_gx, sum_g = (direct.empty(mean.shape, mean.dtype, False) for _ in range(2))
    kernels.library.norm_gradient(
        last(y_bar, x.dtype), y, place, x, plain(weight, x.dtype), mean, scale, x_bar, sum_gx, sum_g, window
    )  # fmt: skip
    return x_bar, sum_gx, sum_g


def norm_gradient_back(X, W, B, y_bar, y, place, x, weight, mean, scale, sum_gx, sum_g, window, needs):
    """The gradients of y_bar, x and weight for cotangents X, W, B of x̄, w̄, b̄; None where `needs` says so."""
    kernels.refuse_transforms()
    need_y_bar, need_x, need_weight = needs
    y_bar_out = direct.empty(y.shape, y.dtype, True) if need_y_bar else None
    x_out = direct.empty(x.shape, x.dtype, True) if need_x else None
    w_out = direct.empty(mean.shape, mean.dtype, False) if need_weight else None
    kernels.library.norm_gradient_back(
        last(X, x.dtype), plain(W, x.dtype), plain(B, x.dtype), last(y_bar, x.dtype), y, place, x,
        plain(weight, x.dtype), mean, scale, sum_gx, sum_g, y_bar_out, x_out, w_out, window
    )  # fmt: skip
    return y_bar_out, x_out, w_out


def pixel_means(x):
    """(n, channels): the mean over the pixels of each image; by torch's kernel where this one does not take x."""
    kernels.refuse_transforms()
    if not kernels.library.takes(x):
        return x.mean((2, 3))
    means = direct.empty(x.shape[:2], x.dtype, False)
    kernels.library.pixel_means(x, means)
    return means


def spread_means(means, height, width):
    """The adjoint of pixel_means: (n, channels, height, width), means / pixels at each pixel."""
    kernels.refuse_transforms()
    if not (means.numel() and kernels.fits(means.shape[1], means.dtype) and means.device.type == "cpu"):
        return (means / (height * width))[:, :, None, None].expand(*means.shape, height, width)
    x = direct.empty((*means.shape, height, width), means.dtype, True)
    kernels.library.spread_means(plain(means, means.dtype), x)
    return x
