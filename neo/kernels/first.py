"""A net's first block on constant images of few planes, on Neo's kernels: torch.Tensors in and out.

x (n, planes, h, w), contiguous, float32 or float64 on the CPU; a 3x3 convolution of stride 1 or 2 and padding 1, batch
norm, a rectifier (slope: below 0, at least 0; 0 is a ReLU, 1 none), and 2x2 max pooling or none (window 1). See
first_block.h: the convolution's output, the largest image of the net, is never stored.
"""

from __future__ import annotations

from typing import Any

import torch

from neo import kernels
from neo.kernels import direct
from neo.kernels.operands import last, per_channel, plain

__all__ = [
    "MOST_PLANES",
    "Images",
    "correlate",
    "first",
    "first_backward",
    "first_double_backward",
    "first_tangent",
    "ready",
    "spread",
]

MOST_PLANES = 4


def ready(x: torch.Tensor, params: Any, stride: int, window: int) -> bool:
    """Whether the kernels take these torch.Tensors; params: weight, bias, gamma or None, and beta."""
    weight = params[0]
    if not (
        kernels.available()
        and kernels.library.readable(x)
        and x.ndim == 4
        and 0 < x.shape[1] <= MOST_PLANES
        and x.numel() > 0
        and weight.dtype is x.dtype
        and weight.device == x.device
        and weight.ndim == 4
        and tuple(weight.shape[1:]) == (x.shape[1], 3, 3)
        and kernels.fits(weight.shape[0], x.dtype)
        and stride in (1, 2)
        and window in (1, 2)
    ):
        return False
    n, _, h, w = x.shape
    down, across = (h - 1) // stride + 1, (w - 1) // stride + 1
    return (
        n * down * across > 1  # of one value a channel, torch says what is wrong
        and window <= min(down, across)
        and params[-1] is not None
        and all(per_channel(p, weight.shape[0], x) for p in params[1:])
    )


class Images:
    """Constant images and the moments of their 3x3 patches: computed once, used by every pass over them.

    Args: x (n, planes, h, w); stride of the convolution; window of the pooling, 1 or 2; slope of the rectifier.
    mean (taps,) and covariance (taps, taps) are float64; taps = 9 planes, in the order of a weight's entries.
    """

    def __init__(self, x: torch.Tensor, stride: int, window: int, slope: float = 0.0):
        self.x, self.stride, self.window, self.slope = plain(x, x.dtype), stride, window, slope
        taps = 9 * x.shape[1]
        self.mean = direct.empty((taps,), torch.float64, False)
        self.covariance = direct.empty((taps, taps), torch.float64, False)
        kernels.library.moments(
            x=self.x, patch_mean=self.mean, patch_covariance=self.covariance, stride=stride
        )

    def arguments(self, weight: Any, gamma: Any, eps: float) -> dict[str, Any]:
        """As the kernels take them, with a block's parameters."""
        return {
            "x": self.x, "patch_mean": self.mean, "patch_covariance": self.covariance, "stride": self.stride,
            "window": self.window, "slope": self.slope, "weight": plain(weight, self.x.dtype),
            "gamma": plain(gamma, self.x.dtype), "eps": eps,
        }  # fmt: skip


def first(images, weight, gamma, beta, eps):
    """(y, place): y = the largest γ r (p·w − w·m) + β of each window, rectified; weight (channels, planes, 3, 3)."""
    x, window = images.x, images.window
    n, _, h, w = x.shape
    rows, columns = (h - 1) // images.stride + 1, (w - 1) // images.stride + 1
    shape = (n, weight.shape[0], rows // window, columns // window)
    y = direct.empty(shape, x.dtype, True)
    place = direct.empty(shape, torch.uint8, True) if window > 1 else None
    kernels.library.first(**images.arguments(weight, gamma, eps), beta=plain(beta, x.dtype), y=y, place=place)
    return y, place


def first_backward(images, y_bar, y, place, weight, gamma, eps):
    """(w̄, γ̄, β̄, sums): first's gradients, and what correlate gives, which the double backward takes."""
    kernels.refuse_transforms()
    sums = direct.empty((9 * images.x.shape[1] + 1, y.shape[1]), torch.float64, False)
    w_bar, gamma_bar, beta_bar = (
        direct.empty(shape, y.dtype, False) for shape in (weight.shape, y.shape[1:2], y.shape[1:2])
    )
    kernels.library.first_backward(
        **images.arguments(weight, gamma, eps), y=y, place=place, y_bar=last(y_bar, y.dtype), sums=sums, w_bar=w_bar,
        gamma_bar=gamma_bar, beta_bar=beta_bar,
    )  # fmt: skip
    return w_bar, gamma_bar, beta_bar, sums


def first_tangent(images, w_dot, gamma_dot, beta_dot, y, place, weight, gamma, eps):
    """y's tangent for those of weight, gamma and beta (None: zero)."""
    kernels.refuse_transforms()
    y_dot = direct.empty(y.shape, y.dtype, True)
    kernels.library.first_double_backward(
        **images.arguments(weight, gamma, eps), y=y, place=place, sums=None, W=plain(w_dot, y.dtype),
        G=plain(gamma_dot, y.dtype), B=plain(beta_dot, y.dtype), y_bar_out=y_dot, w_out=None, gamma_out=None,
    )  # fmt: skip
    return y_dot


def first_double_backward(images, W, G, B, sums, y, place, weight, gamma, eps, wants_y_bar=True):
    """The gradients of y_bar (None unless wanted), weight and gamma for cotangents W, G, B of w̄, γ̄, β̄."""
    kernels.refuse_transforms()
    y_bar_out = direct.empty(y.shape, y.dtype, True) if wants_y_bar else None
    w_out = direct.empty(weight.shape, y.dtype, False)
    gamma_out = direct.empty(y.shape[1:2], y.dtype, False)
    kernels.library.first_double_backward(
        **images.arguments(weight, gamma, eps), y=y, place=place, sums=sums, W=plain(W, y.dtype), G=plain(G, y.dtype),
        B=plain(B, y.dtype), y_bar_out=y_bar_out, w_out=w_out, gamma_out=gamma_out,
    )  # fmt: skip
    return y_bar_out, w_out, gamma_out


def correlate(y_bar, y, place, images):
    """(taps + 1, channels), float64: Σ g p for each entry p of a patch, then Σ g, g the cotangent before pooling."""
    kernels.refuse_transforms()
    x = images.x
    sums = direct.empty((9 * x.shape[1] + 1, y.shape[1]), torch.float64, False)
    kernels.library.correlate(
        x=x,
        y=y,
        place=place,
        y_bar=last(y_bar, x.dtype),
        sums=sums,
        stride=images.stride,
        window=images.window,
        slope=images.slope,
    )
    return sums


def spread(sums_bar, y, place, images):
    """The adjoint of correlate in y_bar."""
    kernels.refuse_transforms()
    x = images.x
    y_bar_out = direct.empty(y.shape, y.dtype, True)
    kernels.library.spread(
        x=x, y=y, place=place, sums_bar=plain(sums_bar, x.dtype), y_bar_out=y_bar_out, stride=images.stride,
        window=images.window, slope=images.slope,
    )  # fmt: skip
    return y_bar_out
