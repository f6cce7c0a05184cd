"""Networks of sines, for signals that are functions of place. Sitzmann et al. 2020, arXiv:2006.09661."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch

from neo.nn import init
from neo.nn.layers import Flatten, Linear
from neo.nn.module import Module, Sequential

__all__ = ["Sine", "Siren"]


class Sine(Module):
    """y = sin(ω x)."""

    def __init__(self, frequency: float = 30.0):
        self.frequency = frequency

    def __call__(self, params: Any, x: Any) -> Any:
        return torch.sin(self.frequency * x)


class SineLinear(Linear):
    """A linear layer whose weights are uniform in ±bound; b: as torch's, uniform in ±1/√inputs."""

    def __init__(self, inputs: int, outputs: int, bound: float):
        super().__init__(inputs, outputs)
        self.bound = bound

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {
            "weight": init.uniform((self.outputs, self.inputs), self.bound, generator),
            "bias": init.uniform((self.outputs,), 1 / math.sqrt(self.inputs), generator),
        }


class Siren(Sequential):
    """Linear layers with y = sin(ω x) between them: Siren(2, 64, 64, 1). x (batch, ...) is flattened first.

    W of the first layer is uniform in ±1/inputs, of the others in ±√(6/inputs)/ω, so that activations keep their
    distribution from layer to layer (section 3.2).

    Args:
        frequency: ω > 0, the paper's 30 for signals on ±1.
    """

    def __init__(self, *sizes: int, frequency: float = 30.0):
        if len(sizes) < 2:
            raise ValueError(f"Siren: expected at least an input and an output size, got {sizes}")
        if not 0 < frequency < math.inf:
            raise ValueError(f"Siren: frequency must be finite and above 0, got {frequency}")
        layers: list[tuple[str, Module]] = [("flatten", Flatten())]
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            bound = 1 / inputs if i == 0 else math.sqrt(6 / inputs) / frequency
            layers += [(f"linear{i}", SineLinear(inputs, outputs, bound)), (f"sine{i}", Sine(frequency))]
        super().__init__(layers[:-1])
