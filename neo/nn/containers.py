"""Layers made of layers, other than one after the other (Sequential is in module.py)."""

from __future__ import annotations

from typing import Any

import torch

from neo.nn.module import Module

__all__ = ["Residual"]


class Residual(Module):
    """y = x + f(x), or shortcut(x) + f(x) where f changes the shape. He et al. 2016, arXiv:1512.03385.

    Params: those of the body as "body.<name>", of the shortcut as "shortcut.<name>".
    """

    def __init__(self, body: Module, shortcut: Module | None = None):
        self.parts = {"body": body} | ({} if shortcut is None else {"shortcut": shortcut})
        probe = torch.Generator()
        self._keys = {name: tuple(part.draw(probe)) for name, part in self.parts.items()}

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {
            f"{name}.{key}": weight
            for name, part in self.parts.items()
            for key, weight in part.draw(generator).items()
        }

    def __call__(self, params: Any, x: Any) -> Any:
        through = {
            name: part({key: params[f"{name}.{key}"] for key in self._keys[name]}, x)
            for name, part in self.parts.items()
        }
        straight, bent = through.get("shortcut", x), through["body"]
        if straight.shape != bent.shape:
            raise ValueError(
                f"Residual: the body gives shape {tuple(bent.shape)}, what it is added to has {tuple(straight.shape)}; "
                f"give a shortcut that brings x to the body's shape"
            )
        return straight + bent
