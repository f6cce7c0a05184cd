"""A perceptron's layers on torch's functions: what direct.perceptron and its two gradients fall back on.

They are for tensors that _direct.cpp does not take: on another device, of half precision, under two vmaps.
neo/functions/perceptron.py has the formulas.

All tensors may have one leading dim more, the same for all. kinds has a letter for each layer.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["perceptron", "perceptron_double_backward", "perceptron_gradient"]

_threshold_backward = torch.ops.aten.threshold_backward.default
_ACTIVATE: dict[str, Any] = {"r": torch.relu, "t": torch.tanh, "s": torch.sigmoid, "-": lambda a: a}
_SLOPED: dict[str, Any] = {
    "r": lambda u, h: _threshold_backward(u, h, 0),
    "t": lambda u, h: torch.addcmul(u, u * h, h, value=-1),
    "s": lambda u, h: u * (h * (1 - h)),
    "-": lambda u, h: u,
}
"""u φ′, of h = φ(a)."""
_BENT: dict[str, Any] = {
    "r": lambda z, u, h: None,
    "t": lambda z, u, h: z * u * (-2 * h),
    "s": lambda z, u, h: z * u * (1 - 2 * h),
    "-": lambda z, u, h: None,
}
"""z u dφ′/dh, of h = φ(a); None for zero."""


def _sum(x: Any, y: Any) -> Any:
    return y if x is None else x if y is None else x + y


def perceptron(x: Any, weights: Any, biases: Any, kinds: str, every: bool) -> tuple[Any, ...]:
    """The outputs of all layers; where not `every`, a tuple of the last alone."""
    out = []
    for weight, bias, kind in zip(weights, biases, kinds, strict=True):
        if x.ndim == 2:
            x = _ACTIVATE[kind](torch.addmm(bias, x, weight.t()))
        else:
            x = _ACTIVATE[kind](torch.baddbmm(bias.unsqueeze(-2), x, weight.transpose(-2, -1)))
        out.append(x)
    return tuple(out) if every else (x,)


def perceptron_gradient(
    bars: Any, x: Any, weights: Any, outputs: Any, kinds: str, mask: Any, keep: bool
) -> tuple[Any, Any]:
    """The gradients that mask asks for (x, weights, biases), and, to `keep`, the u of every layer but the last.

    Of a ReLU its δ in place of u: what is made of the two is the same.
    """
    count = len(weights)
    found, kept, u = [None] * (2 * count + 1), [None] * (count - 1), bars[-1]
    wanted = [mask[0] or any(mask[1 : i + 2]) or any(mask[1 + count : count + i + 2]) for i in range(count)]
    for i in reversed(range(count)):
        if not wanted[i]:
            break
        delta = _SLOPED[kinds[i]](u, outputs[i] if i < len(outputs) else None)
        if i < count - 1:
            kept[i] = delta if kinds[i] == "r" else u
        if mask[1 + i]:
            found[1 + i] = delta.transpose(-2, -1) @ (outputs[i - 1] if i else x)
        if mask[1 + count + i]:
            found[1 + count + i] = delta.sum(-2)
        if i and wanted[i - 1]:
            u = _sum(delta @ weights[i], bars[i - 1])
        elif mask[0]:
            found[0] = delta @ weights[i]
    return tuple(bar for bar in found if bar is not None), tuple(kept) if keep else ()


def perceptron_double_backward(
    of_x: Any,
    of_weights: Any,
    of_biases: Any,
    bars: Any,
    x: Any,
    weights: Any,
    outputs: Any,
    us: Any,
    kinds: str,
    needs: Any,
) -> tuple[Any, Any, Any, Any]:
    """For cotangents of the gradients those of the bars, of x, of the weights and of the outputs; None for zero."""
    count, us = len(weights), (*us, bars[-1])
    bars_out, weights_out = [None] * count, [None] * count
    below_out: list[Any] = [None] * (1 + len(outputs))  # of x, then of the outputs
    need_x, need_weights, need_outputs = needs[0], needs[1 : 1 + count], needs[1 + count :]
    need_below = (need_x, *need_outputs)
    through = of_x  # the cotangent of the layer's u: at first that of x̄
    for i in range(count):
        below, h = outputs[i - 1] if i else x, outputs[i] if i < len(outputs) else None
        of_delta = None if of_weights[i] is None else below @ of_weights[i].transpose(-2, -1)
        if of_biases[i] is not None:
            of_delta = _sum(
                of_delta, of_biases[i].unsqueeze(-2).expand(bars[-1].shape[:-1] + of_biases[i].shape[-1:])
            )
        of_delta = _sum(of_delta, None if through is None else through @ weights[i].transpose(-2, -1))
        if us[i] is not None:
            delta = us[i] if kinds[i] == "r" and i < count - 1 else _SLOPED[kinds[i]](us[i], h)
            if through is not None and need_weights[i]:
                weights_out[i] = delta.transpose(-2, -1) @ through
            if of_weights[i] is not None and need_below[i]:
                below_out[i] = _sum(below_out[i], delta @ of_weights[i])
        if of_delta is not None and h is not None and us[i] is not None and need_outputs[i]:
            below_out[1 + i] = _BENT[kinds[i]](of_delta, us[i], h)
        through = None if of_delta is None else _SLOPED[kinds[i]](of_delta, h)
        bars_out[i] = None if bars[i] is None or through is None else through
    return tuple(bars_out), below_out[0], tuple(weights_out), tuple(below_out[1:])
