"""Learning to reweight examples by what a few clean ones say. Ren, Zeng, Yang and Urtasun 2018, arXiv:1803.09050."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

import neo
from meta.class_members import expect_class_numbers
from meta.learner import MetaLearner, Predictor, Step, TaskResult
from meta.problems import Classification, Problem, constant
from neo.nn import Module
from neo.typing import PyTree

__all__ = ["Reweighting"]

WEIGHTS = ("learned", "uniform")


class Reweighting(MetaLearner):
    """Train a classifier on labels of which some are wrong, each batch weighted by its use to a few that are right.

    w_i ∝ max(−∂ L_query(θ − α ∇_θ Σ_j ε_j ℓ_j(θ)) / ∂ε_i, 0) at ε = 0, Σ_i w_i = 1          (Algorithm 1)
    gradient = ∇_θ Σ_i w_i ℓ_i(θ), ℓ_i the loss of support example i

    At ε = 0 the derivative is −α ⟨∇L_query(θ), ∇ℓ_i(θ)⟩: the tangent of ℓ_i along the query gradient, for all i in one
    pass forward, and α cancels. Where no example helps all weights are 0, and the step is none.

    Meta-parameters: the model's, trained as in any classifier; nothing adapts to a task.

    Args:
        model: gives logits.
        weights: "learned", or "uniform" for plain training on the support batch, to compare with.
        problem: judges queries; cross-entropy by default. The weighted loss is cross-entropy.
    Raises: ValueError naming the argument; Unsuited for tasks whose support labels are no class numbers.
    Cost: learned: three gradients (of queries, their tangents in the support batch, and the weighted one).
    """

    def __init__(self, model: Module, *, weights: str = "learned", problem: Problem | None = None) -> None:
        if weights not in WEIGHTS:
            raise ValueError(f"Reweighting: weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
        self.model, self.weights, self.problem = model, weights, problem or Classification()

    def adapt(self, params: PyTree, support: Any, step: Step) -> Predictor:
        expect_class_numbers("Reweighting", support)
        return Predictor(lambda x: self.model(params, x))

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        support = task.support
        expect_class_numbers("Reweighting", support)

        def losses(params: PyTree) -> Any:
            return F.cross_entropy(self.model(params, support.x), support.y, reduction="none")

        def query_loss(params: PyTree) -> tuple[Any, Any]:
            return self.problem.query_loss(lambda x: self.model(params, x), task.query)

        if self.weights == "uniform":
            loss, score = query_loss(params)
            weights = torch.full_like(support.y, 1 / len(support), dtype=loss.dtype)
        else:
            (loss, score), towards = neo.value_and_grad(query_loss, argnums=0, has_aux=True)(params)
            weights = self.weighted(constant(neo.jvp(losses, (params,), (towards,))[1]))
        gradient = neo.grad(lambda params: (weights * losses(params)).sum(), argnums=0)(params)
        used = (weights > 0).to(weights.dtype).mean()
        return TaskResult(gradient, constant(loss), score, metrics={"used": used})

    def weighted(self, use: torch.Tensor) -> torch.Tensor:
        """(examples,) of how much a step on each lowers the query loss → weights, which sum to 1, or all 0."""
        helpful = use.clamp(min=0)
        total = helpful.sum()
        return helpful / torch.where(total > 0, total, torch.ones_like(total))
