"""A net's first block on constant images of few planes, on Neo's kernels: torch.Tensors in and out.

x (n, planes, h, w), contiguous, float32 or float64 on the CPU; a 3x3 convolution of stride 1 or 2 and padding 1, batch
norm, ReLU, and 2x2 max pooling or none (window 1). See first_block.h: the convolution's output, the largest image of
the net, is never stored.
"""

from __future__ import annotations

import torch

from neo import kernels

__all__ = ["MOST_PLANES", "Images", "correlate", "first", "ready", "spread"]

MOST_PLANES = 4
_LAST = torch.channels_last


def ready(x: torch.Tensor, channels: int, window: int) -> bool:
    """Whether the kernels take these images to so many channels."""
    return (
        kernels.available()
        and x.ndim == 4
        and x.device.type == "cpu"
        and kernels.fits(channels, x.dtype)
        and 0 < x.shape[1] <= MOST_PLANES
        and x.numel() > 0
        and window in (1, 2)
    )


class Images:
    """Constant images and the moments of their 3x3 patches: computed once, used by every pass over them.

    Args: x (n, planes, h, w); stride of the convolution; window of the pooling, 1 or 2.
    mean (taps,) and covariance (taps, taps) are float64; taps = 9 planes, in the order of a weight's entries.
    """

    def __init__(self, x: torch.Tensor, stride: int, window: int):
        self.x, self.stride, self.window = x.contiguous(), stride, window
        taps = 9 * x.shape[1]
        self.mean = torch.empty(taps, dtype=torch.float64)
        self.covariance = torch.empty((taps, taps), dtype=torch.float64)
        kernels.library.moments(self.x, self.mean, self.covariance, stride)


def first(x, weight, shift, stride, window):
    """(y, place): y = max over each window of max(patch · weight + shift, 0); weight (taps, channels)."""
    n, _, h, w = x.shape
    channels = weight.shape[1]
    shape = (n, channels, ((h - 1) // stride + 1) // window, ((w - 1) // stride + 1) // window)
    y = torch.empty(shape, dtype=x.dtype, memory_format=_LAST)
    place = torch.empty(shape, dtype=torch.uint8, memory_format=_LAST) if window > 1 else None
    kernels.library.first(x, weight, shift, y, place, stride, window)
    return y, place


def correlate(y_bar, y, place, x, stride, window):
    """(taps + 1, channels), float64: Σ g p for each entry p of a patch, then Σ g, g the cotangent before pooling."""
    sums = torch.empty((9 * x.shape[1] + 1, y.shape[1]), dtype=torch.float64)
    kernels.library.correlate(y_bar.contiguous(memory_format=_LAST), y, place, x, sums, stride, window)
    return sums


def spread(sums, y, place, x, stride, window):
    """The adjoint of correlate in y_bar."""
    out = torch.empty_like(y, memory_format=_LAST)
    kernels.library.spread(sums.to(x.dtype).contiguous(), y, place, x, out, stride, window)
    return out
