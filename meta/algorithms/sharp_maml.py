"""Sharp-MAML: MAML that looks for flat minima, in both of its loops. Abbas et al. 2022, arXiv:2206.03996."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import neo
from meta.algorithms.maml import MAML
from meta.estimators import Implicit
from meta.inner_loop import Iterates
from meta.learner import Step, TaskResult
from neo import pytree
from neo.nn import Module
from neo.typing import PyTree

__all__ = ["SharpMAML"]


class SharpMAML(MAML):
    """Learn an initialisation by sharpness-aware steps: gradients where the loss is worst within a radius ρ.

    θ_k = θ_{k−1} − α ∇L_support(θ_{k−1} + ε),  ε = ρ_inner ∇L_support(θ_{k−1}) / ‖∇L_support(θ_{k−1})‖     (lower)
    meta-gradient = ∇F(θ + ε),  ε = ρ_outer ∇F(θ) / ‖∇F(θ)‖,  F(θ) = L_query(θ_K)                           (upper)

    The inner ε is differentiated, as in the authors' code; the outer one is a constant. The outer ε is each task's own,
    the paper's is of the mean over a meta-batch: with one task in it they are the same. (Of smaller batches, sharpness
    says more: Foret et al. 2021, arXiv:2010.01412, section 4.1.) With both radii 0 it is MAML.

    Args:
        inner_radius, outer_radius: ρ ≥ 0, in units of the parameters; 0 switches that part off. The authors' code has
            0.0005 for both.
        others: as MAML has them.
    Metrics: sharpness, F(θ + ε) − F(θ), with outer_radius > 0; loss and score are those at θ.
    Raises: ValueError naming the argument; for meta_gradient="implicit" with inner_radius, whose equation would have no
        symmetric Jacobian, as conjugate gradients need it.
    Cost: twice MAML's gradients in each loop whose radius is not 0: about four times MAML with both.
    """

    def __init__(
        self, model: Module, *, inner_radius: float = 0.0005, outer_radius: float = 0.0005, **options: Any
    ):
        for name, radius in (("inner_radius", inner_radius), ("outer_radius", outer_radius)):
            if not (math.isfinite(radius) and radius >= 0):
                raise ValueError(f"SharpMAML: {name} must be a finite number of 0 or more, got {radius}")
        super().__init__(model, **options)
        if inner_radius and isinstance(self.estimator, Implicit):
            raise ValueError(
                f"SharpMAML: meta_gradient='implicit' solves with conjugate gradients, which need the Hessian that "
                f"inner_radius={inner_radius} takes away; set algorithm.inner_radius=0, or take another meta_gradient."
            )
        self.inner_radius, self.outer_radius = inner_radius, outer_radius

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        found = super().task_gradient(params, task, step)
        if not self.outer_radius:
            return found
        worst = super().task_gradient(_ascended(params, found.gradient, self.outer_radius), task, step)
        metrics = {**found.metrics, "sharpness": worst.loss - found.loss}
        return dataclasses.replace(found, gradient=worst.gradient, metrics=metrics)

    def iterates(self, params: PyTree, support: Any, step: Step, **options: Any) -> Iterates:
        sharp = {"differentiate": self._at_worst} if self.inner_radius else {}
        return super().iterates(params, support, step, **sharp, **options)

    def _at_worst(self, loss: Callable[..., Any]) -> Callable[..., PyTree]:
        """loss → its gradient at θ + ε."""
        gradient = neo.grad(loss, argnums=0, mode=self.estimator.mode)

        def at_worst(params: PyTree, *given: Any) -> PyTree:
            return gradient(_ascended(params, gradient(params, *given), self.inner_radius), *given)

        return at_worst


def _ascended(params: PyTree, gradient: PyTree, radius: float) -> PyTree:
    """θ + ρ g / ‖g‖, the norm over all leaves together; θ where g is 0."""
    factor = radius / (neo.optim.global_norm(gradient) + 1e-12)
    return pytree.tree_map(lambda leaf, g: leaf + factor * g, params, gradient)
