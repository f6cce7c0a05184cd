"""Where a gradient is chosen among many, as at a norm's zero, and so has no derivative of its own (rule 16): NaN there.

A mask that fills in the chosen gradient would make its derivative 0, which is a number that nothing has.
"""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions.registry import raw
from neo.guards import known

__all__ = ["kinked", "without_slope"]


class Undefined(Policy):
    """y = a number (0 or NaN) at `at`, 0 elsewhere;  x̄ = NaN at `at`, 0 elsewhere, and so on at every order."""

    verified = True

    def forward(self, x, at, number):
        self.ctx.save(x, at)
        return torch.where(at, number, torch.zeros_like(x))

    def backward(self, y_bar):
        x, at = self.ctx.release
        return _undefined(x, at, torch.nan), None

    def jvp(self, x_dot, at_dot):
        x, at = self.ctx.release
        return _undefined(x, at, torch.nan)


class Kink(Policy):
    """y = x;  x̄ = ȳ, which has no derivative by x at `at`."""

    verified = True

    def forward(self, x, at):
        self.ctx.save(x, at)
        return x

    def backward(self, y_bar):
        x, at = self.ctx.release
        return without_slope(y_bar, x, at), None

    def jvp(self, x_dot, at_dot):
        x, at = self.ctx.release
        return without_slope(x_dot, x, at)


_undefined, _kink = function(Undefined, "undefined"), function(Kink, "kink")


def without_slope(gradient: Any, x: Any, at: Any) -> Any:
    """`gradient`, of x's shape, with a derivative by x that is NaN where the mask `at` (broadcast) holds.

    For a Policy's backward: costs nothing while no outer session differentiates it.
    """
    if not isinstance(x, LiteTensor) or _nowhere(raw(at)):
        return gradient
    return gradient + _undefined(x, raw(at), 0.0)


def kinked(x: Any, at: Any) -> Any:
    """x, with a second derivative that is NaN where the mask `at` (broadcast) holds: for compositions."""
    if not isinstance(x, LiteTensor) or _nowhere(raw(at)):
        return x
    return _kink(x, raw(at))


def _nowhere(at: torch.Tensor) -> bool:
    """Is the mask False throughout? Elsewhere than on the CPU asking would wait for the device: perhaps not."""
    return known(at.any()) is False
