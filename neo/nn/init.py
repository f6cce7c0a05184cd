"""Initial weights. Drawn on the CPU in float32 from the generator passed in, so that a seed gives the same on every
device, and whatever torch's default device and dtype are."""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["glorot_uniform", "kaiming_uniform", "normal", "ones", "uniform", "zeros"]

_PLACE: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}


def glorot_uniform(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """U(−a, a), a = √(6 / (fan_in + fan_out)); Glorot and Bengio 2010, equation 16. float32."""
    fan_in, fan_out = _fans(shape)
    return uniform(shape, math.sqrt(6 / (fan_in + fan_out)), generator)


def kaiming_uniform(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """U(−a, a), a = √(6 / fan_in), for ReLU networks; He et al. 2015, equation 10. float32."""
    return uniform(shape, math.sqrt(6 / _fans(shape)[0]), generator)


def normal(shape: tuple[int, ...], generator: torch.Generator, std: float = 0.01) -> torch.Tensor:
    """N(0, std²), float32."""
    return torch.randn(shape, generator=generator, **_PLACE) * std


def zeros(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(shape, **_PLACE)


def ones(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.ones(shape, **_PLACE)


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> torch.Tensor:
    """U(−bound, bound), float32."""
    return (torch.rand(shape, generator=generator, **_PLACE) * 2 - 1) * bound


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs of one unit: weight is (out, in, *kernel)."""
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel
