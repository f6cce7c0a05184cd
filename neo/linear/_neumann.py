"""The Neumann series."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neo.linear._solver import Product, Solver, Vector, add_scaled, norm

__all__ = ["neumann"]


@dataclass(frozen=True)
class neumann(Solver):
    """x = step Σ (I − step A)ᵏ b, for an A with ‖I − step A‖ < 1 (Lorraine et al. 2020, arXiv:1911.02590).

    Each term is a product. See Solver for the other arguments.

    Args:
        step: of the series, > 0; below 2 / the largest eigenvalue of a symmetric positive definite A.
    """

    iterations: int = 100
    step: float = 1.0
    tolerance: float = 1e-5
    unconverged: str = "warn"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step > 0:
            raise ValueError(f"neumann: step must be greater than 0, got {self.step!r}")

    def _iterate(self, product: Product, b: Vector) -> tuple[Vector, int]:
        x = [self.step * leaf for leaf in b]
        size = norm(b)
        for count in range(1, self.iterations + 1):
            rest = add_scaled(b, -1, product(x))
            if self.tolerance and bool(norm(rest) <= self.tolerance * size):
                return x, count
            x = add_scaled(x, self.step, rest)
        if not self.tolerance or all(bool(torch.isfinite(leaf).all()) for leaf in x):
            return x, self.iterations
        raise OverflowError(
            f"neumann: the series diverges at step={self.step:g}; take a step below 2 / the largest eigenvalue of A, "
            f"or another solver"
        )
