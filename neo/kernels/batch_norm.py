"""Batch norm by the batch's statistics, a rectifier and pooling on Neo's kernels: torch.Tensors in and out.

x (n, channels, h, w) channels-last, and ready (neo.kernels.ready); slope: of the rectifier below 0, at least 0: 0 is a
ReLU, 1 no rectifier; window 1 is no pooling. `place` says, a byte an
entry of y, which pixel of its window it was, row by row; None without pooling.
"""

from __future__ import annotations

from typing import Any

import torch

from neo import kernels
from neo.kernels import direct
from neo.kernels.operands import last, per_channel, plain

__all__ = ["largest_window", "norm", "norm_backward", "norm_double_backward", "ready"]

largest_window = 15  # its places fit a byte


def ready(x: torch.Tensor, weight: Any, bias: Any, window: int) -> bool:
    """Whether the kernels take these torch.Tensors; weight may be None."""
    return (
        kernels.ready(x)
        and 1 <= window <= min(largest_window, *x.shape[2:])
        and x.numel() > x.shape[1]  # of one value a channel, torch says what is wrong
        and bias is not None
        and all(per_channel(param, x.shape[1], x) for param in (weight, bias))
    )


def norm(x, weight, bias, eps, window, slope):
    """(y, place, μ, r): y = max(m, 0) + slope min(m, 0), m = the largest w r (x − μ) + b of each window."""
    n, channels, h, w = x.shape
    shape = (n, channels, h // window, w // window)
    y = direct.empty(shape, x.dtype, True)
    place = direct.empty(shape, torch.uint8, True) if window > 1 else None
    mean, scale = (direct.empty((channels,), x.dtype, False) for _ in range(2))
    kernels.library.norm(
        z=x, gamma=plain(weight, x.dtype), beta=plain(bias, x.dtype), y=y, place=place, mean=mean, scale=scale, eps=eps,
        window=window, slope=slope,
    )  # fmt: skip
    return y, place, mean, scale


def norm_backward(y_bar, y, place, x, weight, mean, scale, window, slope):
    """(x̄, Σ g x̂, Σ g) for g, the cotangent of y at the pixels it came from; the latter two are w̄ and b̄."""
    kernels.refuse_transforms()
    x_bar = direct.empty(x.shape, x.dtype, True)
    sum_gx, sum_g = (direct.empty(mean.shape, mean.dtype, False) for _ in range(2))
    kernels.library.norm_backward(
        z=x, gamma=plain(weight, x.dtype), mean=mean, scale=scale, y=y, place=place, y_bar=last(y_bar, x.dtype),
        z_total=x_bar, gamma_bar=sum_gx, beta_bar=sum_g, window=window, slope=slope,
    )  # fmt: skip
    return x_bar, sum_gx, sum_g


def norm_double_backward(
    X, W, B, y_bar, y, place, x, weight, mean, scale, sum_gx, sum_g, window, slope, output_mask
):
    """The gradients of y_bar, x and weight for cotangents X, W, B of x̄, w̄, b̄; None where output_mask is False.

    The first is also the tangent of norm's y along X, W, B in place of x, weight and bias, and takes neither y_bar nor
    the sums.
    """
    kernels.refuse_transforms()
    y_bar_out = direct.empty(y.shape, y.dtype, True) if output_mask[0] else None
    x_out = direct.empty(x.shape, x.dtype, True) if output_mask[1] else None
    w_out = direct.empty(mean.shape, mean.dtype, False) if output_mask[2] else None
    kernels.library.norm_double_backward(
        z=x, gamma=plain(weight, x.dtype), mean=mean, scale=scale, y=y, place=place, y_bar=last(y_bar, x.dtype),
        gamma_bar=sum_gx, beta_bar=sum_g, Z=last(X, x.dtype), G=plain(W, x.dtype), B=plain(B, x.dtype),
        y_bar_out=y_bar_out, z_out=x_out, gamma_out=w_out, window=window, slope=slope,
    )  # fmt: skip
    return y_bar_out, x_out, w_out
