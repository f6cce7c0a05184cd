"""3x3 convolution, batch norm, ReLU and max pooling as one block on Neo's kernels: torch.Tensors in and out.

x (n, inputs, h, w) and all images channels-last; weight (outputs, inputs, 3, 3), window 1 is no pooling; z is the
convolution's output, `place` says which pixel of its window an entry of y was (batch_norm.py). One call for a whole
block and for each gradient of it: the GIL is let go once, and Python does not come between its kernels.
"""

from __future__ import annotations

from typing import Any

import torch

from neo import kernels
from neo.kernels import direct
from neo.kernels.batch_norm import largest_window
from neo.kernels.operands import last, per_channel, plain

__all__ = ["block", "block_gradient", "block_gradient_back", "ready"]


def ready(x: Any, params: Any, stride: int, window: int) -> bool:
    """Whether the kernels take these torch.Tensors; params: weight, bias or None, gamma or None, and beta."""
    weight = params[0]
    if not (kernels.ready(x) and weight.ndim == 4 and tuple(weight.shape[1:]) == (x.shape[1], 3, 3)):
        return False
    n, _, h, w = x.shape
    down, across = (h - 1) // stride + 1, (w - 1) // stride + 1
    return (
        kernels.fits(weight.shape[0], x.dtype)
        and stride in (1, 2)
        and 1 <= window <= min(down, across, largest_window)
        and n * down * across > 1  # of one value a channel, torch says what is wrong
        and weight.dtype is x.dtype
        and weight.device == x.device
        and params[-1] is not None
        and all(per_channel(p, weight.shape[0], x) for p in params[1:])
    )


def block(x, weight, bias, gamma, beta, eps, stride, window):
    """(y, z, place, μ, r): z = x ∗ weight + bias, y = max over each window of max(γ r (z − μ) + β, 0)."""
    n, _, h, w = x.shape
    down, across = (h - 1) // stride + 1, (w - 1) // stride + 1
    outputs = weight.shape[0]
    z = direct.empty((n, outputs, down, across), x.dtype, True)
    shape = (n, outputs, down // window, across // window)
    y = direct.empty(shape, x.dtype, True)
    place = direct.empty(shape, torch.uint8, True) if window > 1 else None
    mean, scale = _channels(outputs, x), _channels(outputs, x)
    kernels.library.block(
        x, last(weight, x.dtype), plain(bias, x.dtype), plain(gamma, x.dtype), plain(beta, x.dtype), eps, z, y, place,
        mean, scale, stride, window
    )  # fmt: skip
    return y, z, place, mean, scale


def block_gradient(y_bar, more, x, weight, gamma, z, mean, scale, y, place, stride, window, asked):
    """(z̄, x̄, w̄, γ̄, β̄) for the cotangents ȳ of y and `more` (None: zero) of z; x̄, w̄ None where not `asked`."""
    kernels.refuse_transforms()
    outputs = weight.shape[0]
    z_bar = direct.empty(z.shape, x.dtype, True)
    x_bar = direct.empty(x.shape, x.dtype, True) if asked[0] else None
    w_bar = direct.empty(weight.shape, x.dtype, True) if asked[1] else None
    gamma_bar, beta_bar = _channels(outputs, x), _channels(outputs, x)
    kernels.library.block_gradient(
        last(y_bar, x.dtype), last(more, x.dtype), y, place, x, last(weight, x.dtype), plain(gamma, x.dtype), z, mean,
        scale, z_bar, x_bar, w_bar, gamma_bar, beta_bar, stride, window
    )  # fmt: skip
    return z_bar, x_bar, w_bar, gamma_bar, beta_bar


def block_gradient_back(
    X,
    W,
    G,
    B,
    y_bar,
    x,
    weight,
    gamma,
    z,
    mean,
    scale,
    y,
    place,
    z_bar,
    gamma_bar,
    beta_bar,
    stride,
    window,
    needs,
):
    """The gradients (of ȳ, of `more`, of x, weight, γ and z) for cotangents X, W, G, B of x̄, w̄, γ̄, β̄ (None: zero).

    needs: of ȳ, x, weight and γ; None where it says no. x's and the weight's are the direct ones, not those by z.
    """
    kernels.refuse_transforms()
    need_y_bar, need_x, need_weight, need_gamma = needs
    Z = direct.empty(z.shape, x.dtype, True)
    room = direct.empty(z.shape, x.dtype, True) if X is not None and W is not None else None
    y_bar_out = direct.empty(y.shape, x.dtype, True) if need_y_bar else None
    x_out = direct.empty(x.shape, x.dtype, True) if need_x and W is not None else None
    w_out = direct.empty(weight.shape, x.dtype, True) if need_weight and X is not None else None
    gamma_out = _channels(weight.shape[0], x) if need_gamma else None
    z_out = direct.empty(z.shape, x.dtype, True)
    kernels.library.block_gradient_back(
        last(X, x.dtype), last(W, x.dtype), plain(G, x.dtype), plain(B, x.dtype), last(y_bar, x.dtype), y, place, x,
        last(weight, x.dtype), plain(gamma, x.dtype), z, mean, scale, gamma_bar, beta_bar, z_bar, Z, room, y_bar_out,
        x_out, w_out, gamma_out, z_out, stride, window
    )  # fmt: skip
    return y_bar_out, Z, x_out, w_out, gamma_out, z_out


def _channels(count, like):
    return direct.empty((count,), like.dtype, False)
