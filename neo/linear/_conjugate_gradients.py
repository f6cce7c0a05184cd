"""Conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from neo.linear._solver import Product, Solver, Vector, add_scaled, inner, ratio

__all__ = ["cg"]


@dataclass(frozen=True)
class cg(Solver):
    """Conjugate gradients, for a symmetric positive definite A (Hestenes and Stiefel 1952).

    Exact after as many products as A has different eigenvalues, but for rounding. See Solver for the arguments.
    """

    iterations: int = 50
    tolerance: float = 1e-5
    unconverged: str = "warn"

    symmetric: ClassVar[bool] = True

    def _iterate(self, product: Product, b: Vector) -> tuple[Vector, int]:
        x = [torch.zeros_like(leaf) for leaf in b]
        rest = direction = b
        size = start = inner(b, b)
        for count in range(1, self.iterations + 1):
            image = product(direction)
            step = ratio(size, inner(direction, image))
            x = add_scaled(x, step, direction)
            rest = add_scaled(rest, -step, image)
            before, size = size, inner(rest, rest)
            if self.tolerance and bool(size <= self.tolerance**2 * start):
                return x, count
            direction = add_scaled(rest, ratio(size, before), direction)
        return x, self.iterations
