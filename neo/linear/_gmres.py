"""GMRES."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neo.linear._solver import Product, Solver, Vector, add_scaled, inner, norm, ratio

__all__ = ["gmres"]


@dataclass(frozen=True)
class gmres(Solver):
    """The x that minimises ‖b − A x‖ in the space of b, A b, A² b ..., for any regular A (Saad and Schultz 1986).

    Its transpose, which the derivative asks for, is had from apply by a pullback. See Solver for the other arguments.

    Args:
        restart: after how many products to begin anew from the x found so far, ≥ 1; so many vectors are kept.
    """

    iterations: int = 50
    restart: int = 20
    tolerance: float = 1e-5
    unconverged: str = "warn"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.restart, int) and self.restart >= 1):
            raise ValueError(f"gmres: restart must be an integer of at least 1, got {self.restart!r}")

    def _iterate(self, product: Product, b: Vector) -> tuple[Vector, int]:
        x = [torch.zeros_like(leaf) for leaf in b]
        rest, goal, count = b, self.tolerance * norm(b) if self.tolerance else None, 0
        while True:
            correction, steps = _minimiser(product, rest, min(self.restart, self.iterations - count), goal)
            x = [a + c for a, c in zip(x, correction, strict=True)]
            count += steps
            if count >= self.iterations:
                return x, count
            rest = add_scaled(b, -1, product(x))
            count += 1
            if count >= self.iterations or (goal is not None and bool(norm(rest) <= goal)):
                return x, count


def _minimiser(product: Product, b: Vector, most: int, goal: torch.Tensor | None) -> tuple[Vector, int]:
    """The y in the Krylov space of so many products that minimises ‖b − A y‖, by Arnoldi's orthonormal basis of it.

    At most `most` products, fewer where ‖b − A y‖ ≤ goal before (None: not looked at). Gives y, and their number.
    """
    size = norm(b)
    basis = [[ratio(leaf, size.expand_as(leaf)) for leaf in b]]
    columns: list[list[torch.Tensor]] = []
    weights = torch.zeros(())
    for k in range(most):
        image = product(basis[k])
        column: list[torch.Tensor] = []
        for _ in range(2):  # once more, for what rounding left
            shares = [inner(vector, image) for vector in basis]
            for share, vector in zip(shares, basis, strict=True):
                image = add_scaled(image, -share, vector)
            column = [a + c for a, c in zip(column, shares, strict=True)] if column else shares
        length = norm(image)
        columns = [[*before, torch.zeros_like(length)] for before in columns]
        columns.append([*column, length])
        basis.append([ratio(leaf, length.expand_as(leaf)) for leaf in image])
        if goal is not None or k == most - 1:
            hessenberg = torch.stack([torch.stack(entries) for entries in columns], 1)  # (k + 2, k + 1)
            weights = torch.linalg.pinv(hessenberg)[:, 0] * size
        if goal is not None:
            left = -hessenberg @ weights
            left[0] += size
            if bool(left.norm() <= goal):
                break
    y = [torch.zeros_like(leaf) for leaf in b]
    for weight, vector in zip(weights, basis, strict=False):
        y = add_scaled(y, weight, vector)
    return y, len(columns)
