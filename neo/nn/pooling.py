"""Pooling in one, two and three dimensions; MaxPool2d is in layers.py."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from neo.nn.module import Module

__all__ = ["AdaptiveAvgPool", "AvgPool", "GlobalMean", "MaxPool"]

Sizes = int | tuple[int, ...]


class _Window(Module):
    """Windows of x (n, channels, *space), one to three spatial dims. stride: the kernel by default."""

    name: str

    def __init__(self, kernel: Sizes = 2, stride: Sizes | None = None, padding: Sizes = 0):
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def __call__(self, params: Any, x: Any) -> Any:
        return getattr(F, f"{self.name}{_space(x, self)}d")(x, self.kernel, self.stride, self.padding)


class MaxPool(_Window):
    """The largest entry of each window of x (n, channels, *space); of equal ones the first gets the gradient."""

    name = "max_pool"


class AvgPool(_Window):
    """The mean of each window of x (n, channels, *space); padding counts as zeros."""

    name = "avg_pool"


class AdaptiveAvgPool(Module):
    """The means of `sizes` cells, x (n, channels, *space) → (n, channels, *sizes)."""

    def __init__(self, sizes: Sizes):
        self.sizes = sizes

    def __call__(self, params: Any, x: Any) -> Any:
        return getattr(F, f"adaptive_avg_pool{_space(x, self)}d")(x, self.sizes)


class GlobalMean(Module):
    """x (n, channels, *space) → (n, channels), the mean over space, any number of spatial dims."""

    def __call__(self, params: Any, x: Any) -> Any:
        return x.mean(tuple(range(2, x.ndim)))


def _space(x: Any, layer: Module) -> int:
    if x.ndim not in (3, 4, 5):
        raise ValueError(
            f"{type(layer).__name__}: expected x (n, channels, *space) with 1 to 3 spatial dims, got shape "
            f"{tuple(x.shape)}"
        )
    return x.ndim - 2
