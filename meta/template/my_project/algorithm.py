"""An algorithm: how to learn from a task (adapt), and how to learn to (task_gradient)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import meta
import neo


class MultiStepMAML(meta.MetaLearner):
    """MAML with a query loss after every inner step: the gradient reaches each step directly.

    minimise over θ  the mean over tasks and over i = 1 … k of  L_query(θᵢ),
    θᵢ = θᵢ₋₁ − α ∇L_support(θᵢ₋₁),  θ₀ = θ.  Antoniou et al. 2019, arXiv:1810.09502, eq. 2, equal weights.

    Args:
        model: its params are the meta-parameters.
        inner_lr: α ≥ 0.
        inner_steps: k ≥ 1.
        problem: losses and score, as conf/task names them.
    """

    def __init__(
        self,
        model: Any,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 3,
        problem: meta.Problem | None = None,
    ) -> None:
        self.model, self.problem = model, problem or meta.Classification()
        self.inner = meta.InnerLoop("MultiStepMAML", steps=inner_steps, lr=inner_lr, least_steps=1)

    def adapt(self, params: Any, support: Any, step: meta.Step) -> meta.Predictor:
        return meta.Predictor.of_model(self.model, self.iterates(params, support, step))

    def task_gradient(self, params: Any, task: Any, step: meta.Step) -> meta.TaskResult:
        def mean_query_loss(params: Any) -> tuple[Any, Any]:
            # Each inner step opens a session inside this one, which sees through it: second order.
            _, *adapted = self.iterates(params, task.support, step)
            found = [self.query_loss(at, task.query) for at in adapted]
            return sum(loss for loss, _ in found) / len(found), found

        (_, found), gradient = neo.value_and_grad(mean_query_loss, argnums=0, has_aux=True)(params)
        (first_loss, _), (loss, score) = found[0], found[-1]
        return meta.TaskResult(gradient, loss.data, score, metrics={"first_step_loss": first_loss.data})

    def query_loss(self, params: Any, query: Any) -> tuple[Any, Any]:
        return self.problem.query_loss(lambda x: self.model(params, x), query)

    def iterates(self, params: Any, support: Any, step: meta.Step) -> Iterable[Any]:
        """θ₀, θ₁, ... θₖ."""

        def support_loss(params: Any, support: Any) -> Any:
            return self.problem.support_loss(lambda x: self.model(params, x), support)

        return self.inner.iterates(support_loss, params, support, steps=step.inner_steps)
