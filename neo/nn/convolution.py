"""Convolutions of one and three dimensions and transposed ones, as torch.nn has them; Conv2d is in layers.py."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.functions.convolution import per_dim
from neo.nn import init
from neo.nn.module import Module

__all__ = ["Conv1d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

Sizes = int | tuple[int, ...]
"""One number for every spatial dim, or one for each."""


class _Convolution(Module):
    """y = x ∗ W + b. W: Glorot uniform, b: 0. The arguments are those of the torch.nn layer of the same name."""

    dims: int
    transposed = False

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        output_padding: Sizes = 0,
    ):
        name = type(self).__name__
        if inputs % groups or outputs % groups:
            raise ValueError(
                f"{name}: inputs and outputs must divide into groups, got {inputs}, {outputs}, groups={groups}"
            )
        if output_padding and not self.transposed:
            raise ValueError(f"{name}: output_padding is for transposed convolutions, got {output_padding}")
        pair = (inputs, outputs // groups) if self.transposed else (outputs, inputs // groups)
        self.shape = (*pair, *per_dim(kernel, self.dims))
        self.outputs, self.bias = outputs, bias
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.output_padding = output_padding

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        weight = {"weight": init.glorot_uniform(self.shape, generator)}
        return {**weight, "bias": init.zeros((self.outputs,))} if self.bias else weight

    def __call__(self, params: Any, x: Any) -> Any:
        weight, bias = params["weight"], params.get("bias")
        if self.transposed:
            apply = getattr(F, f"conv_transpose{self.dims}d")
            return apply(
                x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
            )
        apply = getattr(F, f"conv{self.dims}d")
        return apply(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class Conv1d(_Convolution):
    """x (n, inputs, length) → (n, outputs, length′)."""

    dims = 1


class Conv3d(_Convolution):
    """x (n, inputs, depth, height, width) → (n, outputs, depth′, height′, width′)."""

    dims = 3


class ConvTranspose1d(_Convolution):
    """The adjoint of a Conv1d as a layer: x (n, inputs, length) → (n, outputs, length′)."""

    dims, transposed = 1, True


class ConvTranspose2d(_Convolution):
    """The adjoint of a Conv2d as a layer: x (n, inputs, height, width) → (n, outputs, height′, width′)."""

    dims, transposed = 2, True


class ConvTranspose3d(_Convolution):
    """The adjoint of a Conv3d as a layer: x (n, inputs, depth, height, width) → (n, outputs, ...)."""

    dims, transposed = 3, True
