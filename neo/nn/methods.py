"""Other methods of a converted torch module than forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from neo.nn.module import Module

__all__ = ["Method", "MethodAsForward"]

_PREFIX = "module."  # of the names of what MethodAsForward holds


class MethodAsForward(torch.nn.Module):
    """A module whose forward is a method of another."""

    def __init__(self, module: torch.nn.Module, method: str):
        super().__init__()
        self.module, self.method = module, method
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.module, self.method)(*args, **kwargs)


class Method(Module):
    """model.method("encode"): the module's encode as a pure function, method(params, x), of the model's own params.

    state and seed are taken and given as by the model itself; see neo.nn.TorchModel for both and for errors.
    Raises: AttributeError for a method that the module does not have.
    """

    def __init__(self, model: Module, converted: Callable[..., Any], name: str, updates_state: bool):
        """converted: what neo.nn.from_torch makes of MethodAsForward(module, name)."""
        self.model, self.converted, self.name, self.updates_state = model, converted, name, updates_state

    def init(self, seed: int = 0, **options: Any) -> Any:
        """The params of the whole model: model.init."""
        return self.model.init(seed, **options)

    def __call__(
        self, params: Any, *args: Any, state: Any = None, seed: int | None = None, **kwargs: Any
    ) -> Any:
        inner_state = None if state is None else _named(state)
        out = self.converted(_named(params), *args, state=inner_state, seed=seed, **kwargs)
        if not self.updates_state:
            return out
        out, new_state = out
        return out, {name.removeprefix(_PREFIX): value for name, value in new_state.items()}

    def __repr__(self) -> str:
        return f"{self.model}.method({self.name!r})"


def _named(tensors: Any) -> dict[str, Any]:
    return {_PREFIX + name: value for name, value in tensors.items()}
