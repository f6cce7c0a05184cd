"""Layers: each a pure function of its own params and x. Images are (batch, channels, height, width)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from neo.nn import init
from neo.nn.module import Module

__all__ = ["BatchNorm2d", "Conv2d", "Flatten", "Lambda", "Linear", "MaxPool2d", "ReLU", "SpatialMean"]


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
    """2-D cross-correlation with a square kernel. W: Glorot uniform, b: 0."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int = 0, bias: bool = True
    ):
        self.shape = (outputs, inputs, kernel, kernel)
        self.stride, self.padding, self.bias = stride, padding, bias

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        weights = {"weight": init.glorot_uniform(self.shape, generator)}
        return {**weights, "bias": init.zeros((self.shape[0],))} if self.bias else weights

    def __call__(self, params: Any, x: Any) -> Any:
        return F.conv2d(x, params["weight"], params.get("bias"), self.stride, self.padding)


class BatchNorm2d(Module):
    """y = γ (x − μ) / √(σ² + ε) + β with the mean and variance of the batch at hand, in training and in test alike.

    That is MAML's batch norm: no running statistics exist, so that a task is normalised by its own images. It makes
    predictions depend on the other images of the batch (transduction). Ioffe and Szegedy 2015, arXiv:1502.03167.

    Args:
        scale: learn γ; False keeps it at 1, as the MAML paper's Omniglot network has it.
        eps: ε, in units of x².
    """

    def __init__(self, channels: int, scale: bool = True, eps: float = 1e-5):
        self.channels, self.scale, self.eps = channels, scale, eps

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        weights = {"weight": torch.ones(self.channels)} if self.scale else {}
        return {**weights, "bias": init.zeros((self.channels,))}

    def __call__(self, params: Any, x: Any) -> Any:
        return F.batch_norm(x, None, None, params.get("weight"), params["bias"], training=True, eps=self.eps)


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
        return torch.mean(x, (2, 3))


class Lambda(Module):
    """Any function of x as a layer without params."""

    def __init__(self, fn: Callable[[Any], Any]):
        self.fn = fn

    def __call__(self, params: Any, x: Any) -> Any:
        return self.fn(x)
