"""The meta-gradient at the solution of the inner problem, whatever the way there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import neo
from meta.estimators.base import Descent, Estimator
from neo import pytree
from neo.typing import PyTree

__all__ = ["Implicit"]


@dataclass(frozen=True)
class Implicit(Estimator):
    """The inner loop solves φ* = argmin L_support(φ) + λ/2 ‖φ − θ‖², to be differentiated by what holds at φ*.

        meta-gradient = (I + H / λ)⁻¹ ∇L_query(φ*),  H = ∇²L_support(φ*)

    Rajeswaran et al. 2019, arXiv:1909.04630 (iMAML), equation 6; the linear system by conjugate gradients. Parameters
    that do not adapt get theirs by the same equation.
    Cost: the inner loop, of which nothing is kept; a Hessian-vector product a CG iteration. Memory does not depend on
    the inner steps. Bias: that of an inner loop which has not converged, and of a system not solved to the end.

    Args:
        strength: λ ≥ 0, in units of L per parameter squared; the paper's Omniglot runs take 2.0. Evaluation adapts with
            it, too. It must outweigh negative curvature: λ > −(the least eigenvalue of H).
        iterations: of CG, ≥ 1; the paper takes 5.
        tolerance: stop CG at ‖residual‖ ≤ tolerance ‖∇L_query‖, in [0, 1); 0: always all iterations, and no look at
            numbers, as batched=true and a GPU want it.
    """

    strength: float = 2.0
    iterations: int = 5
    tolerance: float = 0.0

    name: ClassVar[str] = "implicit"
    repeats: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise ValueError(f"Implicit: strength must be a finite number of 0 or more, got {self.strength}")
        self._solver()  # which looks at its settings

    def inner_loss(self, loss: Callable[..., Any], start: PyTree) -> Callable[..., Any]:
        def with_proximity(params: PyTree, *given: Any) -> Any:
            moved = [
                (a - b).square().sum()
                for a, b in zip(pytree.leaves(params), pytree.leaves(start), strict=True)
            ]
            return loss(params, *given) + 0.5 * self.strength * sum(moved[1:], start=moved[0])

        return with_proximity

    def end(self, descent: Descent) -> PyTree:
        def solve() -> PyTree:
            return super(Implicit, self).end(descent)

        def residual(params: PyTree) -> PyTree:
            return descent.gradient(params, max(descent.steps - 1, 0))

        return neo.implicit(solve, residual, solver=self._solver())()

    def _solver(self) -> neo.linear.Solver:
        return neo.linear.cg(
            iterations=self.iterations, tolerance=self.tolerance, unconverged="ignore"
        )  # fmt: skip
