"""Layers: each a pure function of its own params and x. Images are (batch, channels, height, width)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from neo.autograd._batched import is_batched
from neo.functions.fused import patches_linear, spatial_mean
from neo.nn import init
from neo.nn.module import Module

__all__ = [
    "ChannelsLast",
    "Conv2d",
    "Flatten",
    "Lambda",
    "Linear",
    "MaxPool2d",
    "ReLU",
    "SpatialMean",
]

FEW_CHANNELS = 4  # up to this many input channels a CPU is faster by patches than by its convolution kernels


class Linear(Module):
    """y = x Wᵀ + b; x (batch, inputs) → y (batch, outputs). W: Glorot uniform, b: 0."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        self.inputs, self.outputs, self.bias = inputs, outputs, bias

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        weights = {"weight": init.glorot_uniform((self.outputs, self.inputs), generator)}
        return {**weights, "bias": init.zeros((self.outputs,))} if self.bias else weights

    def __call__(self, params: Any, x: Any) -> Any:
        return F.linear(x, params["weight"], params.get("bias"))


class Conv2d(Module):
    """2-D cross-correlation with a square kernel. W: Glorot uniform, b: 0.

    channels_last: keep W so, and with it the images that come out; and take constant images (a torch.Tensor) of few
    channels through one matrix product on the CPU, whose convolution kernels do badly on them. The same function in
    another order of summation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        channels_last: bool = False,
    ):
        self.shape = (outputs, inputs, kernel, kernel)
        self.stride, self.padding, self.bias = stride, padding, bias
        self.channels_last = channels_last

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        weight = init.glorot_uniform(self.shape, generator)
        if self.channels_last:
            weight = weight.contiguous(memory_format=torch.channels_last)
        return {"weight": weight, "bias": init.zeros((self.shape[0],))} if self.bias else {"weight": weight}

    def __call__(self, params: Any, x: Any) -> Any:
        weight, bias = params["weight"], params.get("bias")
        constant = isinstance(x, torch.Tensor) and x.device.type == "cpu" and not is_batched(x)
        if self.channels_last and constant and self.shape[1] <= FEW_CHANNELS:
            return patches_linear(x, weight, bias, self.stride, self.padding)
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class ChannelsLast(Module):
    """Images (n, channels, height, width) as they are, with the channels of a pixel side by side in memory.

    Normalisation and pooling run several times as fast on that layout on a CPU, and convolutions keep it.
    """

    def __call__(self, params: Any, x: Any) -> Any:
        if isinstance(x, torch.Tensor) and is_batched(x):
            return x  # under vmap an example has no layout of its own
        return x.contiguous(memory_format=torch.channels_last)


class ReLU(Module):
    """y = max(x, 0)."""

    def __call__(self, params: Any, x: Any) -> Any:
        return torch.relu(x)


class MaxPool2d(Module):
    """The largest entry of each kernel x kernel window, windows side by side."""

    def __init__(self, kernel: int = 2):
        self.kernel = kernel

    def __call__(self, params: Any, x: Any) -> Any:
        return F.max_pool2d(x, self.kernel)


class Flatten(Module):
    """(batch, ...) → (batch, product of the rest)."""

    def __call__(self, params: Any, x: Any) -> Any:
        return torch.flatten(x, 1)


class SpatialMean(Module):
    """(batch, channels, height, width) → (batch, channels), the mean over space."""

    def __call__(self, params: Any, x: Any) -> Any:
        return spatial_mean(x)


class Lambda(Module):
    """Any function of x as a layer without params."""

    def __init__(self, fn: Callable[[Any], Any]):
        self.fn = fn

    def __call__(self, params: Any, x: Any) -> Any:
        return self.fn(x)
