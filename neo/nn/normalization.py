"""Layer, root-mean-square, group and instance norm; batch norm is in batch_norm.py."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from neo.nn import init
from neo.nn.module import Module

__all__ = ["GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


class _Affine(Module):
    """y = γ x̂ + β, x̂ of mean 0 and variance 1. γ: 1, β: 0.

    Args:
        scale, shift: learn γ, learn β.
        eps: ε, in units of x².
    """

    def __init__(self, shape: tuple[int, ...], scale: bool = True, shift: bool = True, eps: float = 1e-5):
        self.shape, self.scale, self.shift, self.eps = shape, scale, shift, eps

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        weights = {"weight": init.ones(self.shape)} if self.scale else {}
        return {**weights, "bias": init.zeros(self.shape)} if self.shift else weights


class LayerNorm(_Affine):
    """Each sample's last dims, of a shape, to mean 0 and variance 1. Ba et al. 2016, arXiv:1607.06450."""

    def __init__(
        self, shape: int | tuple[int, ...], scale: bool = True, shift: bool = True, eps: float = 1e-5
    ):
        super().__init__((shape,) if isinstance(shape, int) else tuple(shape), scale, shift, eps)

    def __call__(self, params: Any, x: Any) -> Any:
        return F.layer_norm(x, self.shape, params.get("weight"), params.get("bias"), self.eps)


class RMSNorm(Module):
    """y = γ x / √(mean x² + ε) over the last dim of x, of a size. γ: 1. Zhang and Sennrich 2019, arXiv:1910.07467."""

    def __init__(self, size: int, eps: float = 1e-5):
        self.size, self.eps = size, eps

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"weight": init.ones((self.size,))}

    def __call__(self, params: Any, x: Any) -> Any:
        return F.rms_norm(x, (self.size,), params["weight"], self.eps)


class GroupNorm(_Affine):
    """Each sample's channels in groups, each group to mean 0 and variance 1. Wu and He 2018, arXiv:1803.08494.

    x: (n, channels, *space). Unlike batch norm it lets no sample see the others.
    """

    def __init__(self, groups: int, channels: int, scale: bool = True, shift: bool = True, eps: float = 1e-5):
        if channels % groups:
            raise ValueError(f"GroupNorm: {channels} channels do not divide into {groups} groups")
        super().__init__((channels,), scale, shift, eps)
        self.groups = groups

    def __call__(self, params: Any, x: Any) -> Any:
        return F.group_norm(x, self.groups, params.get("weight"), params.get("bias"), self.eps)


class InstanceNorm(_Affine):
    """Each channel of each sample to mean 0 and variance 1, x (n, channels, *space) with any number of spatial dims.

    Ulyanov et al. 2016, arXiv:1607.08022. Learns neither γ nor β unless told to, as torch's layers.
    """

    def __init__(self, channels: int, scale: bool = False, shift: bool = False, eps: float = 1e-5):
        super().__init__((channels,), scale, shift, eps)

    def __call__(self, params: Any, x: Any) -> Any:
        if math.prod(x.shape[2:]) < 2:
            raise ValueError(
                f"InstanceNorm: expected more than 1 value a channel, got x of shape {tuple(x.shape)}"
            )
        return F.instance_norm(x, weight=params.get("weight"), bias=params.get("bias"), eps=self.eps)
