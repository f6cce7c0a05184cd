"""Tables of vectors."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.nn import init
from neo.nn.module import Module

__all__ = ["Embedding"]


class Embedding(Module):
    """The rows of a table that x names: x (*) integers in [0, count) → (*, size). W: N(0, 1).

    padding: a row that starts at 0 and gets no gradient.
    """

    def __init__(self, count: int, size: int, padding: int | None = None):
        if padding is not None and not -count <= padding < count:
            raise ValueError(f"Embedding: padding must name one of {count} rows, got {padding}")
        self.count, self.size, self.padding = count, size, padding

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        weight = init.normal((self.count, self.size), generator, std=1.0)
        if self.padding is not None:
            weight[self.padding] = 0.0
        return {"weight": weight}

    def __call__(self, params: Any, x: Any) -> Any:
        return F.embedding(x, params["weight"], self.padding)
