"""The meta-gradient from values alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from meta.estimators.base import Estimate, Estimator, Objective
from meta.evolution import Smoothing, generator
from meta.learner import Step
from neo.typing import PyTree

__all__ = ["EvolutionStrategies"]


@dataclass(frozen=True)
class EvolutionStrategies(Estimator):
    """ĝ = 1/(2 σ n) Σᵢ (F(θ + σ εᵢ) − F(θ − σ εᵢ)) εᵢ, F the query loss after adaptation.

    Song et al. 2020, arXiv:1910.01215, section 3.2, antithetic.
    Cost: 2 n + 1 adaptations, with first derivatives alone; memory of one. Bias: ĝ is of E F(θ + σ ε), so of the order
    of σ² times F's third derivatives. Variance: for a quadratic F with gradient g, (‖g‖² + g²) / n entry by entry, so
    that the relative error is about √(meta-parameters / n).

    Args:
        sigma: σ > 0, in units of the meta-parameters.
        pairs: n ≥ 1, antithetic pairs a task.
    """

    sigma: float = 0.1
    pairs: int = 10

    name: ClassVar[str] = "es"
    repeats: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise ValueError(f"EvolutionStrategies: sigma must be a finite number above 0, got {self.sigma}")
        if not isinstance(self.pairs, int) or isinstance(self.pairs, bool) or self.pairs < 1:
            raise ValueError(
                f"EvolutionStrategies: pairs must be an integer of 1 or more, got {self.pairs!r}"
            )

    def estimate(self, objective: Objective, params: PyTree, step: Step) -> Estimate:
        def value_at(params: PyTree) -> Any:
            return objective(params)[0]

        noise = generator(params, step.seed, 0)
        gradient, values = Smoothing(self.sigma, self.pairs).gradient(value_at, params, noise)
        value, aux = objective(params)
        return Estimate(value, aux, gradient, {"perturbed_loss": values.mean()})
