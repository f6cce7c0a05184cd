"""The meta-gradient from values alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from meta.estimators.base import Estimate, Estimator, Objective, Window
from meta.evolution import Smoothing, generator, noise_like
from meta.learner import Step
from meta.problems import constant
from neo import pytree
from neo.draws import replay
from neo.typing import PyTree

__all__ = ["EvolutionStrategies"]


@dataclass(frozen=True)
class EvolutionStrategies(Estimator):
    """ĝ = 1/(2 σ n) Σᵢ (F(θ + σ εᵢ) − F(θ − σ εᵢ)) εᵢ, F the query loss after adaptation.

    Song et al. 2020, arXiv:1910.01215, section 3.2, antithetic.
    Cost: 2 n + 1 adaptations, with first derivatives alone; memory of one. Bias: ĝ is of E F(θ + σ ε), so of the order
    of σ² times F's third derivatives. Variance: for a quadratic F with gradient g, (‖g‖² + g²) / n entry by entry, so
    that the relative error is about √(meta-parameters / n).

    Persistent where an inner run goes on over outer steps (meta.OnlineLearner): each of the 2 n perturbed runs is
    carried on, with other noise in every window w, and a window's losses are ascribed to all the noise so far:

        ĝ = 1/(2 σ n) Σᵢ (L_w(run of +) − L_w(run of −)) ξᵢ,  ξᵢ = Σ of εᵢ over the windows up to w

    Vicol, Metz and Sohl-Dickstein 2021 (ICML). Summed over the windows of a run at one θ it has the mean of ES through
    the whole run: no bias by truncation, and a variance that grows with the windows before. Memory: 2 n + 1 runs, and n
    times the meta-parameters.

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

    def carry(self, params: PyTree, run: PyTree) -> PyTree:
        none = pytree.tree_map(lambda leaf: torch.zeros_like(constant(leaf)), params)
        return {"run": run, "pairs": [{"up": run, "down": run, "noise": none}] * self.pairs}

    def estimate_window(self, window: Window, params: PyTree, carried: Any, step: Step) -> Estimate:
        smoothing, noise = Smoothing(self.sigma, self.pairs), generator(params, step.seed, 0)
        before = carried or {"run": None, "pairs": [dict.fromkeys(("up", "down", "noise"))] * self.pairs}
        gradient, losses, pairs = None, [], []
        for pair in before["pairs"]:
            drawn = noise_like(params, noise)
            again = replay()  # both runs of a pair draw the same at random
            up, (_, run_up) = window(smoothing.moved(params, drawn), pair["up"])
            with again:
                down, (_, run_down) = window(smoothing.moved(params, drawn, -1), pair["down"])
            so_far = pair["noise"]
            total = drawn if so_far is None else pytree.tree_map(torch.add, so_far, drawn)
            gradient = smoothing.with_pair(gradient, up - down, total)
            losses += [up, down]
            pairs.append({"up": run_up, "down": run_down, "noise": total})
        value, (aux, run) = window(params, before["run"])
        metrics = {"perturbed_loss": torch.stack(losses).mean()}
        return Estimate(value, aux, gradient, metrics, {"run": run, "pairs": pairs})
