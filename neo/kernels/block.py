"""3x3 convolution, batch norm, a rectifier and max pooling as one block on Neo's kernels: torch.Tensors in and out.

x (n, inputs, h, w) and all images channels-last; weight (outputs, inputs, 3, 3); slope: of the rectifier below 0, at
least 0: 0 is a ReLU, 1 no rectifier; window 1 is no pooling; z is the convolution's output, `place` says which pixel of
its window an entry of y was (batch_norm.py). One call for a whole block and for each gradient of it: the GIL is let go
once, and Python does not come between its kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from neo import kernels
from neo.kernels import direct
from neo.kernels.batch_norm import largest_window
from neo.kernels.operands import last, per_channel, plain

__all__ = ["Block", "backward", "backward_tangent", "double_backward", "forward", "ready", "tangent"]


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


class Block(NamedTuple):
    """What a block's forward leaves to its backward; gamma None: 1, place None: no pooling."""

    x: Any
    weight: Any
    gamma: Any
    z: Any
    mean: Any
    scale: Any
    y: Any
    place: Any
    stride: int
    window: int
    slope: float

    def arguments(self) -> dict[str, Any]:
        """As the kernels take them."""
        return {
            **self._asdict(),
            "weight": last(self.weight, self.x.dtype),
            "gamma": plain(self.gamma, self.x.dtype),
        }


def forward(x, weight, bias, gamma, beta, eps, stride, window, slope):
    """z = x ∗ weight + bias, y = max(m, 0) + slope min(m, 0), m = the largest γ r (z − μ) + β of each window."""
    n, _, h, w = x.shape
    down, across = (h - 1) // stride + 1, (w - 1) // stride + 1
    outputs = weight.shape[0]
    z = direct.empty((n, outputs, down, across), x.dtype, True)
    shape = (n, outputs, down // window, across // window)
    y = direct.empty(shape, x.dtype, True)
    place = direct.empty(shape, torch.uint8, True) if window > 1 else None
    mean, scale = _channels(outputs, x), _channels(outputs, x)
    block = Block(x, weight, gamma, z, mean, scale, y, place, stride, window, slope)
    kernels.library.block(**block.arguments(), bias=plain(bias, x.dtype), beta=plain(beta, x.dtype), eps=eps)
    return block


def backward(block, y_bar, z_bar, output_mask):
    """(z_total, x̄, w̄, γ̄, β̄) for the cotangents ȳ and z̄ (None: zero); z_total is z's whole cotangent.

    output_mask: whether x̄ and w̄ are wanted; None where not.
    """
    kernels.refuse_transforms()
    x, weight = block.x, block.weight
    outputs = weight.shape[0]
    z_total = direct.empty(block.z.shape, x.dtype, True)
    x_bar = direct.empty(x.shape, x.dtype, True) if output_mask[0] else None
    w_bar = direct.empty(weight.shape, x.dtype, True) if output_mask[1] else None
    gamma_bar, beta_bar = _channels(outputs, x), _channels(outputs, x)
    kernels.library.block_backward(
        **block.arguments(), y_bar=last(y_bar, x.dtype), z_bar=last(z_bar, x.dtype), z_total=z_total, x_bar=x_bar,
        w_bar=w_bar, gamma_bar=gamma_bar, beta_bar=beta_bar,
    )  # fmt: skip
    return z_total, x_bar, w_bar, gamma_bar, beta_bar


def double_backward(block, y_bar, gradients, cotangents, output_mask):
    """The gradients of ȳ, z̄, x, weight, γ and z through `backward`.

    gradients: (z_total, γ̄, β̄), as backward gave them; cotangents: X, W, G, B of x̄, w̄, γ̄, β̄ (None: zero).
    output_mask: whether those of ȳ, x, weight and γ are wanted; None where not. x's and the weight's are the direct
    ones, not those by way of z.
    """
    kernels.refuse_transforms()
    x, weight, z = block.x, block.weight, block.z
    (z_total, gamma_bar, beta_bar), (X, W, G, B) = gradients, cotangents
    Z = direct.empty(z.shape, x.dtype, True)
    workspace = direct.empty(z.shape, x.dtype, True) if X is not None and W is not None else None
    y_bar_out = direct.empty(block.y.shape, x.dtype, True) if output_mask[0] else None
    x_out = direct.empty(x.shape, x.dtype, True) if output_mask[1] and W is not None else None
    w_out = direct.empty(weight.shape, x.dtype, True) if output_mask[2] and X is not None else None
    gamma_out = _channels(weight.shape[0], x) if output_mask[3] else None
    z_out = direct.empty(z.shape, x.dtype, True)
    kernels.library.block_double_backward(
        **block.arguments(), y_bar=last(y_bar, x.dtype), z_total=z_total, gamma_bar=gamma_bar, beta_bar=beta_bar,
        X=last(X, x.dtype), W=last(W, x.dtype), G=plain(G, x.dtype), B=plain(B, x.dtype), Z=Z, workspace=workspace,
        y_bar_out=y_bar_out, x_out=x_out, w_out=w_out, gamma_out=gamma_out, z_out=z_out,
    )  # fmt: skip
    return y_bar_out, Z, x_out, w_out, gamma_out, z_out


def tangent(block, x_dot, w_dot, gamma_dot, beta_dot):
    """(ẏ, ż) for the tangents of x, weight, γ and β (None: zero); that of the bias shifts ż, and y not at all."""
    kernels.refuse_transforms()
    x, z = block.x, block.z
    z_dot, y_dot = direct.empty(z.shape, x.dtype, True), direct.empty(block.y.shape, x.dtype, True)
    workspace = direct.empty(z.shape, x.dtype, True) if x_dot is not None and w_dot is not None else None
    kernels.library.block_double_backward(
        **block.arguments(), y_bar=None, z_total=None, gamma_bar=None, beta_bar=None, X=last(x_dot, x.dtype),
        W=last(w_dot, x.dtype), G=plain(gamma_dot, x.dtype), B=plain(beta_dot, x.dtype), Z=z_dot, workspace=workspace,
        y_bar_out=y_dot, x_out=None, w_out=None, gamma_out=None, z_out=None,
    )  # fmt: skip
    return y_dot, z_dot


def backward_tangent(block, y_bar, gradients, tangents, output_mask):
    """The tangents of x̄, w̄, γ̄ and β̄ as `backward` gives them, None where output_mask, of x̄ and w̄, is False.

    gradients: (z_total, γ̄, β̄), as backward gave them; tangents: those of ȳ, z̄, x, weight, γ and z (None: zero).
    """
    kernels.refuse_transforms()
    x, weight, z = block.x, block.weight, block.z
    (z_total, gamma_bar, beta_bar), (y_bar_dot, z_bar_dot, X, W, G, Z) = gradients, tangents
    y_bar_dot = torch.zeros_like(block.y) if y_bar_dot is None else y_bar_dot
    Z = torch.zeros_like(z) if Z is None and G is not None else Z
    z_out, workspace = (direct.empty(z.shape, x.dtype, True) for _ in range(2))
    x_bar = direct.empty(x.shape, x.dtype, True) if output_mask[0] else None
    w_bar = direct.empty(weight.shape, x.dtype, True) if output_mask[1] else None
    x_out = direct.empty(x.shape, x.dtype, True) if output_mask[0] and W is not None else None
    w_out = direct.empty(weight.shape, x.dtype, True) if output_mask[1] and X is not None else None
    gamma_out, beta_out, b_bar = (_channels(weight.shape[0], x) for _ in range(3))
    kernels.library.block_backward_tangent(
        **block.arguments(), y_bar=last(y_bar, x.dtype), z_total=z_total, gamma_bar=gamma_bar, beta_bar=beta_bar,
        y_bar_dot=last(y_bar_dot, x.dtype), z_bar=last(z_bar_dot, x.dtype), X=last(X, x.dtype), W=last(W, x.dtype),
        G=plain(G, x.dtype), Z=last(Z, x.dtype), z_out=z_out, x_bar=x_bar, w_bar=w_bar, x_out=x_out, w_out=w_out,
        gamma_out=gamma_out, beta_out=beta_out, workspace=workspace, b_bar=b_bar,
    )  # fmt: skip
    return x_bar, w_bar, gamma_out, beta_out


def _channels(count, like):
    return direct.empty((count,), like.dtype, False)
