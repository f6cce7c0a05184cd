"""Activations as layers without params; ReLU is in layers.py."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.nn import init
from neo.nn.module import Module

__all__ = ["ELU", "GELU", "LeakyReLU", "PReLU", "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh"]


class Tanh(Module):
    """y = tanh x."""

    def __call__(self, params: Any, x: Any) -> Any:
        return torch.tanh(x)


class Sigmoid(Module):
    """y = 1 / (1 + e⁻ˣ)."""

    def __call__(self, params: Any, x: Any) -> Any:
        return torch.sigmoid(x)


class Softplus(Module):
    """y = log(1 + eˣ): a ReLU with all derivatives."""

    def __call__(self, params: Any, x: Any) -> Any:
        return F.softplus(x)


class GELU(Module):
    """y = x Φ(x), Φ the normal distribution; Hendrycks and Gimpel 2016, arXiv:1606.08415. tanh: their approximation."""

    def __init__(self, tanh: bool = False):
        self.approximate = "tanh" if tanh else "none"

    def __call__(self, params: Any, x: Any) -> Any:
        return F.gelu(x, approximate=self.approximate)


class SiLU(Module):
    """y = x σ(x), also called swish."""

    def __call__(self, params: Any, x: Any) -> Any:
        return F.silu(x)


class LeakyReLU(Module):
    """y = x where x > 0, else slope · x."""

    def __init__(self, slope: float = 0.01):
        self.slope = slope

    def __call__(self, params: Any, x: Any) -> Any:
        return F.leaky_relu(x, self.slope)


class ELU(Module):
    """y = x where x > 0, else α (eˣ − 1). Clevert et al. 2016, arXiv:1511.07289."""

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def __call__(self, params: Any, x: Any) -> Any:
        return F.elu(x, self.alpha)


class PReLU(Module):
    """y = x where x > 0, else w x, w learned: one for all channels, or one for each of `channels` (dim 1 of x)."""

    def __init__(self, channels: int = 1, slope: float = 0.25):
        self.channels, self.slope = channels, slope

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"weight": init.ones((self.channels,)) * self.slope}

    def __call__(self, params: Any, x: Any) -> Any:
        return F.prelu(x, params["weight"])


class Softmax(Module):
    """y = eˣ / Σ eˣ over a dim."""

    def __init__(self, dim: int = -1):
        self.dim = dim

    def __call__(self, params: Any, x: Any) -> Any:
        return torch.softmax(x, self.dim)
