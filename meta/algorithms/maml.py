"""Model-agnostic meta-learning. Finn, Abbeel and Levine 2017, arXiv:1703.03400."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import neo
from meta.adapt import chosen_optimizer, last, trajectory, with_inner_clip
from meta.algorithms.base import MetaGradient, MetaLearner
from meta.objectives import Classification, Objective
from meta.parallel import Workers
from neo.nn import Module
from neo.optim import Optimizer
from neo.typing import Params, PyTree
from tasks import Batch, Task

__all__ = ["MAML"]


class MAML(MetaLearner):
    """Learn an initialisation from which a few gradient steps solve a new task.

    minimise over θ  mean over tasks of  L_query(θ′),  θ′ = θ − α ∇L_support(θ), `inner_steps` times
    (equation 1, Algorithm 2). The meta-gradient is exact, through every inner step; first_order=True drops the second
    derivatives (FOMAML, section 5.2).

    Args:
        model: its params are the meta-parameters.
        inner_lr: α > 0, dimensionless, the same at every step; what it means depends on the objective's reduction;
            0.4 where None.
        inner_steps: gradient steps on the support set, ≥ 0.
        inner_clip: the largest global norm of an inner gradient, > 0: longer ones are scaled down to it, and the
            meta-gradient goes through that. None: no limit.
        first_order: see above.
        objective: losses and score; cross-entropy by default.
        inner_optimizer: in the place of sgd(inner_lr), without inner_lr.
        workers: threads on which tasks run side by side, see meta.parallel.Workers; None: one after the other.
    """

    def __init__(
        self,
        model: Module,
        *,
        inner_lr: float | None = None,
        inner_steps: int = 1,
        first_order: bool = False,
        objective: Objective | None = None,
        inner_optimizer: Optimizer | None = None,
        inner_clip: float | None = None,
        workers: int | None = None,
    ):
        if inner_steps < 0:
            raise ValueError(f"MAML: inner_steps must be 0 or more, got {inner_steps}")
        self.model = model
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.objective = objective or Classification()
        self.inner_clip = inner_clip
        self.inner_optimizer = chosen_optimizer("MAML", inner_lr, inner_optimizer, 0.4)
        self.inner_optimizer = with_inner_clip(type(self).__name__, self.inner_optimizer, inner_clip)
        self.workers = Workers(workers)

    def adapt(self, params: PyTree, support: Batch, steps: int | None = None) -> Params:
        return last(self._inner_loop(params, support, self.inner_steps if steps is None else steps))

    def trajectory(self, params: PyTree, support: Batch, steps: int) -> Iterator[Params]:
        return self._inner_loop(params, support, steps)

    def meta_gradient(self, params: Params, batch: Task) -> MetaGradient:
        gradient_of_task = neo.value_and_grad(self._query_loss, argnums=0, has_aux=True)

        def of_task(task: Task) -> tuple[Params, torch.Tensor, torch.Tensor]:
            (loss, score), gradient = gradient_of_task(params, task)
            return gradient, loss.data, score

        return MetaGradient.of_tasks(self.workers.each(of_task, batch))

    def _inner_loop(self, params: PyTree, support: Batch, steps: int) -> Iterator[Params]:
        """What adapt() and trajectory() are made of, so that they never go different ways."""
        return trajectory(
            self._support_loss,
            params,
            support,
            optimizer=self.inner_optimizer,
            steps=steps,
            first_order=self.first_order,
        )

    def _support_loss(self, params: Params, support: Batch) -> Any:
        return self.objective.support_loss(self.model(params, support.x), support.y)

    def _query_loss(self, params: Params, task: Task) -> tuple[Any, torch.Tensor]:
        prediction = self.model(self.adapt(params, task.support), task.query.x)
        score = self.objective.score(prediction.data, task.query.y).mean()
        return self.objective.query_loss(prediction, task.query.y), score
