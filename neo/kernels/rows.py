"""The derivatives of GELU and the second order of layer norm: on Neo's own kernels, or on torch's.

They are Neo's where `use_rows` has named them (rows.h): one pass over the tensors, where torch's functions take up to
twenty. What the kernels do not take (other dtypes, GELU of float64 among them; LiteTensors, transforms, GPUs) goes to
the function beside each name below.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from neo.kernels.direct import bound

__all__ = ["gelu_bend", "gelu_gradient", "layer_norm_second_order"]

_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


def _gelu_bend(a: Any, g: Any, x: Any) -> Any:
    square = x * x
    return a * g * (torch.exp(square * -0.5) * ((2 - square) * (1 / math.sqrt(2 * math.pi))))


def _layer_norm_second_order(
    X: Any, W: Any, B: Any, g: Any, x: Any, weight: Any, mean: Any, scale: Any, shape: Any, needs: Any
) -> tuple[Any, Any, Any]:
    rows, first = tuple(range(-len(shape), 0)), tuple(range(x.ndim - len(shape)))

    def P(h: Any) -> Any:
        return _layer_norm_backward(h, x, shape, mean, scale, None, None, [True, False, False])[0]

    normal = (x - mean).mul_(scale)
    P_X = None if X is None else P(X)
    g_bar = x_bar = w_bar = None
    if needs[0]:
        g_bar = None if P_X is None else P_X if weight is None else P_X * weight
        g_bar = _total(g_bar, None if W is None else normal * W)
        g_bar = _total(g_bar, None if B is None else B.expand(x.shape))
    if needs[1]:
        along, slope = None if W is None else W * g, None
        if X is not None:
            h = g if weight is None else g * weight
            hx, Xx = (h * normal).mean(rows, True), (X * normal).mean(rows, True)
            a = (X * h).mean(rows, True) - X.mean(rows, True) * h.mean(rows, True) - Xx * hx
            mixed = torch.addcmul(X * hx, h, Xx).mul_(-scale)
            along, slope = _total(along, mixed), a * scale * scale
        if along is not None:
            x_bar = P(along)
            x_bar = x_bar if slope is None else x_bar.addcmul_(normal, slope, value=-1)
    if needs[2] and P_X is not None:
        w_bar = (g * P_X).sum(first) if first else g * P_X
    return g_bar, x_bar, w_bar


def _total(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


gelu_gradient = bound("gelu_gradient", torch.ops.aten.gelu_backward)
"""(g, x) → g (Φ(x) + x φ(x))."""
gelu_bend = bound("gelu_bend", _gelu_bend)
"""(a, g, x) → a g φ(x) (2 − x²), the last two factors being the second derivative of GELU."""
layer_norm_second_order = bound("layer_norm_second_order", _layer_norm_second_order)
"""(X, W, B, g, x, weight, mean, scale, shape, needs) → LayerNormGradient's (ḡ, x̄, w̄) for cotangents X, W, B of its
(x̄, w̄, b̄), None for zero and for what is not needed; g may be None where ḡ alone is needed."""
