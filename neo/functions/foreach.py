"""One op over many tensors at once: what an optimiser does to every parameter, as one node of the tape."""

from __future__ import annotations

import torch

from neo.autograd._batched import any_batched
from neo.autograd.policy import Policy, function
from neo.functions._stacks import on_stacks
from neo.kernels import direct

__all__ = ["descend"]


class Descend(Policy):
    """yᵢ = θᵢ − α gᵢ for each i;  θ̄ᵢ = ȳᵢ,  ḡᵢ = −α ȳᵢ.

    A network's step is one node and, on a GPU, a few kernels, in place of two of each a parameter.
    """

    verified = True

    def forward(self, params, directions, rate):
        self.ctx.save(rate)
        if any_batched(*params, *directions):  # for which torch has no op over many tensors
            return on_stacks(one_by_one, together, tuple(params), tuple(directions), rate)
        return together(params, directions, rate)

    def backward(self, *bars):
        (rate,) = self.ctx.release
        count = len(bars)
        if not any(self.ctx.needs_grad[count:]):
            return (*bars, *[None] * count)
        if isinstance(bars[0], torch.Tensor):
            return (*bars, *on_stacks(scaled, direct.scaled, bars, -rate))
        return (*bars, *each_scaled(bars, -rate))

    def jvp(self, *dots):
        (rate,) = self.ctx.release
        params, directions = dots[: len(dots) // 2], dots[len(dots) // 2 :]
        if None not in dots:
            return descend(params, directions, rate)
        return tuple(
            x_dot
            if g_dot is None
            else g_dot * -rate
            if x_dot is None
            else torch.add(x_dot, g_dot, alpha=-rate)
            for x_dot, g_dot in zip(params, directions, strict=True)
        )


def one_by_one(params, directions, rate):
    return tuple([torch.add(x, g, alpha=-rate) for x, g in zip(params, directions, strict=True)])


def together(params, directions, rate):
    return tuple(torch._foreach_add(params, directions, alpha=-rate))


def scaled(bars, factor):
    return each_scaled(bars, factor) if any_batched(*bars) else direct.scaled(bars, float(factor))


def each_scaled(bars, factor):
    return [bar * factor for bar in bars]


descend = function(Descend)
"""(params, directions, rate): lists of tensors, alike in layout, and a number α → a tuple of tensors."""
