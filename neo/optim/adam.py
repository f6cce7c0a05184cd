"""Adam and AdamW."""

from __future__ import annotations

from typing import Any, NamedTuple

import optree
import torch

from neo.autograd._function import function
from neo.autograd.policy import Policy
from neo.optim.base import Optimizer, Rate, check_rate, rates_for, zeros_like
from neo.typing import PyTree

__all__ = ["AdamState", "adam", "adamw"]


class AdamState(NamedTuple):
    steps: int  # taken so far
    mean: PyTree  # m, running mean of the gradients, like the parameters
    square: PyTree  # v, running mean of their squares


class Root(Policy):
    """y = √x;  x̄ = ȳ / (2y), and 0 where x = 0.

    The square root has no derivative at 0, and v = 0 where a gradient has always been exactly zero: there the update is
    m / ε = 0 and does not depend on v to first order in g, so that 0 is right where √'s own rule gives 0·∞ = NaN.
    """

    verified = True

    def forward(self, x):
        y = torch.sqrt(x)
        self.ctx.save(y)
        return y

    def backward(self, y_bar):
        (y,) = self.ctx.release
        flat = y == 0
        return torch.where(flat, 0.0, y_bar / (2 * torch.where(flat, 1.0, y)))


root = function(Root)


def adam(
    lr: Rate, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizer:
    """m ← β₁ m + (1−β₁) g;  v ← β₂ v + (1−β₂) g²;  θ ← θ − α m̂ / (√v̂ + ε), with m̂ = m / (1−β₁ᵗ), v̂ = v / (1−β₂ᵗ).

    Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1; step for step torch.optim.Adam. weight_decay is added to the
    gradient. Differentiable also where a gradient is exactly zero. State: AdamState.
    """
    return _adam("adam", lr, betas, eps, weight_decay, decoupled=False)


def adamw(
    lr: Rate, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01
) -> Optimizer:
    """Adam with θ ← (1 − α λ) θ before the step in place of λ θ in the gradient.

    Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2; step for step torch.optim.AdamW. State: AdamState.
    """
    return _adam("adamw", lr, betas, eps, weight_decay, decoupled=True)


def _adam(
    name: str, lr: Rate, betas: tuple[float, float], eps: float, weight_decay: float, decoupled: bool
) -> Optimizer:
    check_rate(name, lr)
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"{name}: expected both betas in [0, 1), got {betas}")
    beta1, beta2 = betas

    def init(params: PyTree) -> AdamState:
        return AdamState(0, zeros_like(params), zeros_like(params))

    def step(params: PyTree, grads: PyTree, state: AdamState) -> tuple[PyTree, AdamState]:
        t = state.steps + 1
        rates = rates_for(lr, params)
        if weight_decay and decoupled:
            params = optree.tree_map(lambda p, a: p * (1 - a * weight_decay), params, rates)
        elif weight_decay:
            grads = optree.tree_map(lambda g, p: g + p * weight_decay, grads, params)
        mean = optree.tree_map(lambda m, g: m * beta1 + g * (1 - beta1), state.mean, grads)
        square = optree.tree_map(lambda v, g: v * beta2 + g * g * (1 - beta2), state.square, grads)
        scale1, scale2 = 1 - beta1**t, (1 - beta2**t) ** 0.5

        def update(p: Any, m: Any, v: Any, a: Any) -> Any:
            return p - m / (root(v) / scale2 + eps) * (a / scale1)

        return optree.tree_map(update, params, mean, square, rates), AdamState(t, mean, square)

    return Optimizer(init, step)
