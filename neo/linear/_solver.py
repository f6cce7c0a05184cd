"""What all solvers share: vectors of a pytree, the derivative of the solution, and the report of how it was found."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from neo import pytree
from neo.autograd._stack import suspended, tracked_here
from neo.autograd._tape import record
from neo.autograd.session._recording import as_lite_tensors, named, push_through, record_through
from neo.autograd.session.reverse import vjp
from neo.autograd.tensor import LiteTensor
from neo.errors import ConvergenceError, ConvergenceWarning

__all__ = ["Product", "Report", "Solver", "Vector", "add_scaled", "inner", "norm", "ratio"]

Vector = list[torch.Tensor]  # the leaves of a pytree
Product = Callable[[Vector], Vector]


@dataclass(frozen=True)
class Report:
    """How a solve went.

    iterations: products with A. residual: ‖b − A x‖ / ‖b‖, by one product more; NaN where it was not looked at
    (tolerance=0). converged: residual ≤ tolerance; None where it was not looked at.
    """

    iterations: int
    residual: float
    converged: bool | None


@dataclass(frozen=True)
class Solver:
    """The settings of a solver of A x = b; solver(apply, b) gives x, in the structure of b.

    Args:
        iterations: products with A, at most.
        tolerance: stop when ‖b − A x‖ ≤ tolerance ‖b‖. 0: run all iterations and look at no number, so that neither a
            GPU is waited for nor vmap in the way.
        unconverged: what to do where the tolerance was not met: "warn" (ConvergenceWarning), "raise"
            (ConvergenceError), or "ignore", for a few iterations that are meant to be an approximation.

    Raises: ValueError for settings that mean nothing; TypeError for a b of other things than floating-point
    LiteTensors, and an apply that gives another structure than it is given.
    """

    iterations: int
    tolerance: float
    unconverged: str

    symmetric: ClassVar[bool] = False
    """Is A taken to be its own transpose?"""

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not (isinstance(self.iterations, int) and self.iterations >= 1):
            raise ValueError(f"{name}: iterations must be an integer of at least 1, got {self.iterations!r}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"{name}: tolerance must lie in [0, 1), got {self.tolerance!r}")
        if self.unconverged not in ("warn", "raise", "ignore"):
            raise ValueError(
                f'{name}: unconverged must be "warn", "raise" or "ignore", got {self.unconverged!r}'
            )

    def __call__(self, apply: Callable[[Any], Any], b: Any) -> Any:
        """x with apply(x) = b."""
        return self.solve(apply, b)[0]

    def solve(self, apply: Callable[[Any], Any], b: Any) -> tuple[Any, Report]:
        """(x, report)."""
        name = type(self).__name__
        leaves, spec = pytree.flatten(b, where=(name, 1))
        for i, leaf in enumerate(leaves):
            if not (isinstance(leaf, LiteTensor) and leaf.is_floating_point()):
                raise TypeError(
                    f"{name}: expected b to be a pytree of floating-point LiteTensors, got {type(leaf).__name__} at "
                    f"{pytree.place(spec, i, (name, 1))}"
                )

        def product(vector: Vector) -> Vector:
            given = pytree.unflatten(spec, [LiteTensor._wrap(leaf) for leaf in vector])
            found, structure = pytree.flatten(apply(given))
            if structure != spec or any(y.shape != x.shape for x, y in zip(leaves, found, strict=True)):
                raise TypeError(
                    f"{name}: apply must give the structure and the shapes of b, {spec}, got {structure}"
                )
            return [y.data if isinstance(y, LiteTensor) else y for y in found]

        def values() -> tuple[list[Any], Report]:
            right = [leaf.data for leaf in leaves]
            found, iterations = self._iterate(product, right)
            residual = math.nan
            if self.tolerance:  # the true one: what a method carries along drifts away from it in float32
                size = norm(right).item()
                rest = norm(add_scaled(right, -1, product(found))).item()
                residual = rest / size if size else rest
            converged = residual <= self.tolerance if self.tolerance else None
            return [LiteTensor._wrap(leaf) for leaf in found], Report(iterations, residual, converged)

        (x, report), closed_over = suspended(values)
        self._judge(name, report)
        solution = pytree.unflatten(spec, x)
        places = tracked_here(leaves)
        parents = [*(leaf for leaf, tracked in zip(leaves, places, strict=True) if tracked), *closed_over]
        if parents:
            rule = _Rule(self, apply, spec, x, places, closed_over)
            record(x, parents, named(rule.pull_back, name), named(rule.push, name))
        return solution, report

    def _iterate(self, product: Product, b: Vector) -> tuple[Vector, int]:
        """x, and how many products it took."""
        raise NotImplementedError

    def _judge(self, name: str, report: Report) -> None:
        if report.converged is not False or self.unconverged == "ignore":
            return
        said = (
            f"{name}: after {report.iterations} products with A the residual ‖b − A x‖ / ‖b‖ is {report.residual:.3g}, "
            f"above the tolerance {self.tolerance:g}. Give more iterations, or another solver"
            f"{' (this one wants A symmetric and positive definite)' if self.symmetric else ''}; "
            f'unconverged="ignore" takes the approximation as it is.'
        )
        if self.unconverged == "raise":
            raise ConvergenceError(said)
        warnings.warn(said, ConvergenceWarning, stacklevel=4)


class _Rule:
    """The derivative of x = A⁻¹ b: b̄ = A⁻ᵀ x̄, and what A is made of gets −⟨b̄, Ȧ x⟩; forward, ẋ = A⁻¹ (ḃ − Ȧ x)."""

    def __init__(
        self,
        solver: Solver,
        apply: Callable[[Any], Any],
        spec: Any,
        x: list[LiteTensor],
        places: list[bool],  # which leaves of b are parents
        closed_over: list[LiteTensor],  # what A is made of: the other parents
    ):
        self.solver, self.apply, self.spec, self.x = solver, apply, spec, x
        self.places, self.closed_over = places, closed_over

    def pull_back(self, *x_bars: LiteTensor) -> list[Any]:
        x = pytree.unflatten(self.spec, self.x)
        transposed = self.apply
        if not self.solver.symmetric:
            _, pullback = vjp(self.apply, x)

            def transposed(v: Any) -> Any:
                return pullback(v)[0]

        b_bars = pytree.leaves(self.solver(transposed, pytree.unflatten(self.spec, list(x_bars))))
        wanted = [bar for bar, place in zip(b_bars, self.places, strict=True) if place]
        if not self.closed_over:
            return wanted
        tape, y = record_through(lambda: self.apply(x), self.closed_over)
        found = tape.gradients(y, [-bar for bar in b_bars], self.closed_over)
        return [*wanted, *as_lite_tensors(found)]

    def push(self, *dots: LiteTensor | None) -> list[Any]:
        x = pytree.unflatten(self.spec, self.x)
        given = iter(dots)
        b_dots = [next(given) if place else None for place in self.places]
        _, moved = push_through(lambda: self.apply(x), self.closed_over, list(given))
        right = [-change if dot is None else dot - change for change, dot in zip(moved, b_dots, strict=True)]
        return list(pytree.leaves(self.solver(self.apply, pytree.unflatten(self.spec, right))))


def inner(x: Vector, y: Vector) -> torch.Tensor:
    """⟨x, y⟩ over all leaves."""
    return sum((torch.sum(a * b) for a, b in zip(x, y, strict=True)), start=torch.zeros(()))


def norm(x: Vector) -> torch.Tensor:
    return torch.sqrt(inner(x, x))


def add_scaled(x: Vector, factor: Any, y: Vector) -> Vector:
    """x + factor y."""
    return [a + factor * b for a, b in zip(x, y, strict=True)]


def ratio(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a / b, and 0 for b = 0: nothing is left to be done there."""
    return torch.where(b == 0, torch.zeros_like(a), a / b)
