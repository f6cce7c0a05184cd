"""The sum and the mean of squared errors as one Policy, and its gradient as another.

Of few numbers a loss is all calls.
"""

from __future__ import annotations

from neo.autograd.policy import Policy, function
from neo.functions._stacks import on_stacks
from neo.functions._tangents import total
from neo.kernels import direct

__all__ = ["squared_error"]


class SquaredError(Policy):
    """ℓ = c/2 Σ (x − t)²;  x̄ = ℓ̄ c (x − t), t̄ = −x̄;  ℓ̇ = c Σ (x − t) (ẋ − ṫ).  x and t are of one shape and dtype."""

    verified = True

    def forward(self, x, target, factor):
        self.ctx.save(x, target, factor)
        return on_stacks(direct.squared_error, squared_errors, x, target, factor)

    def backward(self, loss_bar):
        x, target, factor = self.ctx.release
        need_x, need_target = self.ctx.needs_grad
        bar = scaled_difference(loss_bar, x, target, factor)
        return bar if need_x else None, -bar if need_target else None

    def jvp(self, x_dot, target_dot):
        x, target, factor = self.ctx.release
        away_dot = total(x_dot, None if target_dot is None else -target_dot)
        return ((x - target) * away_dot).sum() * factor


class ScaledDifference(Policy):
    """z = c g (x − t) for a number c and a scalar tensor g, t None for zero;  ḡ = c Σ z̄ (x − t),  x̄ = c g z̄ = −t̄."""

    verified = True

    def forward(self, g, x, target, factor):
        self.ctx.save(g, x, target, factor)
        return on_stacks(direct.scaled_difference, scaled_differences, g, x, target, factor)

    def backward(self, z_bar):
        g, x, target, factor = self.ctx.release
        need_g, need_x, *need_target = self.ctx.needs_grad
        g_bar = (z_bar * (x if target is None else x - target)).sum() * factor if need_g else None
        bar = scaled_difference(g, z_bar, None, factor) if need_x or any(need_target) else None
        of_target = [None if bar is None or not need else -bar for need in need_target]
        return g_bar, bar if need_x else None, *of_target

    def jvp(self, g_dot, x_dot, target_dot=None):
        g, x, target, factor = self.ctx.release
        away_dot = total(x_dot, None if target_dot is None else -target_dot)
        return total(
            None if g_dot is None else scaled_difference(g_dot, x, target, factor),
            None if away_dot is None else scaled_difference(g, away_dot, None, factor),
        )


def squared_errors(x, target, factor):
    """factor / 2 · Σ (x − target)² of each tensor of a stack."""
    away = x - target
    return (away * away).flatten(1).sum(1) * (0.5 * factor)


def scaled_differences(g, x, target, factor):
    """factor · g · (x − target) of each tensor of a stack, with a number g for each."""
    return (x if target is None else x - target) * (g * factor).reshape((-1, *[1] * (x.ndim - 1)))


squared_error = function(SquaredError, "mse_loss")
scaled_difference = function(ScaledDifference, "mse_loss")
