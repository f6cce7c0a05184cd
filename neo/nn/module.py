"""Module: a pure function of (params, x), and how to draw its params."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from neo.autograd.tensor import LiteTensor
from neo.typing import Params

__all__ = ["Module", "Sequential"]


class Module:
    """A function of (params, x). It holds sizes and options, never a weight, so that adapted params need no patching.

    A subclass gives `draw` (its initial weights by name) and `__call__`.
    """

    def init(
        self, seed: int = 0, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> Params:
        """Initial params, name → LiteTensor: a pure function of `seed`, the same on every device."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: LiteTensor(weight, dtype=dtype, device=device)
            for name, weight in self.draw(generator).items()
        }

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Initial weights by name, float32 on the CPU; {} for a layer without any."""
        return {}

    def __call__(self, params: Params, x: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no __call__(params, x)")


class Sequential(Module):
    """Layers one after the other; params of layer `name` are called "name.weight" and so on."""

    def __init__(self, layers: Iterable[tuple[str, Module]]):
        self.layers = list(layers)
        names = [name for name, _ in self.layers]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"Sequential: layer names must differ, got {sorted(twice)} more than once")
        # Which params belong to which layer, found once and not at every call.
        probe = torch.Generator()
        self._local = [
            (layer, [(key, f"{name}.{key}") for key in layer.draw(probe)]) for name, layer in self.layers
        ]

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {
            f"{name}.{key}": weight
            for name, layer in self.layers
            for key, weight in layer.draw(generator).items()
        }

    def __call__(self, params: Params, x: Any) -> Any:
        return self.run(params, x)

    def run(self, params: Params, x: Any, first: int = 0) -> Any:
        """The layers from number `first` on."""
        for layer, local in self.split(params, first):
            x = layer(local, x)
        return x

    def split(self, params: Params, first: int = 0) -> Iterator[tuple[Module, Params]]:
        """The layers from number `first` on, each with its own params under its own names.

        Raises: KeyError for one that is missing.
        """
        for layer, names in self._local[first:]:
            try:
                local = {key: params[name] for key, name in names}
            except KeyError as error:
                expected = [name for _, names in self._local for _, name in names]
                raise KeyError(
                    f"{type(self).__name__}: params lack {error.args[0]!r}; expected {expected}, got {list(params)}"
                ) from None
            yield layer, local
