"""Reptile: move towards what a task's own training makes of the parameters. Nichol et al. 2018, arXiv:1803.02999."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import neo
from meta.adapt import chosen_optimizer, last, trajectory, with_inner_clip
from meta.algorithms.base import MetaGradient, MetaLearner
from meta.objectives import Classification, Objective
from meta.parallel import Workers
from neo import pytree
from neo.nn import Module
from neo.optim import Optimizer
from neo.typing import Params, PyTree
from tasks import Batch, Task

__all__ = ["Reptile"]


class Reptile(MetaLearner):
    """Learn an initialisation close to each task's solutions, from first derivatives alone.

    W = U^k(φ): k = `inner_steps` optimiser steps on minibatches of a task, from φ;
    φ ← φ − ε (φ − mean W)    (Algorithm 2)

    The outer optimiser is given φ − mean W as the gradient, so that neo.optim.sgd(ε) is the equation above, and adam
    the variant of the paper's section 3. The inner optimiser starts anew in every task.

    In training a task's support and query examples are all training data, as in the paper, which trains with more shots
    than it tests with: minibatch j of k takes every k-th example of each set from the j-th on, so that no two share one
    and, examples coming class by class, each has about as many of every class. The loss and score of a task are those
    of its last minibatch before the step on it: the only examples that the inner loop has not met by then.

    adapt() takes steps on the whole support set.

    Args:
        model: its params are the meta-parameters.
        inner_lr: α > 0, of SGD, the same at every step; 0.1 where None.
        inner_clip: the largest global norm of an inner gradient, > 0: longer ones are scaled down. None: no limit.
        inner_steps: k ≥ 2; with one step it is training on all tasks at once.
        objective: losses and score; cross-entropy by default.
        inner_optimizer: in the place of sgd(inner_lr), without inner_lr; the paper has Adam with β₁ = 0.
        workers: threads on which tasks run side by side, see meta.parallel.Workers; None: one after the other.
    Cost: k first-order gradients of (support + query) / k examples each a task; no session outlives its step.
    """

    def __init__(
        self,
        model: Module,
        *,
        inner_lr: float | None = None,
        inner_steps: int = 5,
        objective: Objective | None = None,
        inner_optimizer: Optimizer | None = None,
        inner_clip: float | None = None,
        workers: int | None = None,
    ):
        if inner_steps < 2:
            raise ValueError(f"Reptile: inner_steps must be 2 or more, got {inner_steps}")
        self.model = model
        self.inner_steps = inner_steps
        self.objective = objective or Classification()
        self.inner_clip = inner_clip
        self.inner_optimizer = chosen_optimizer("Reptile", inner_lr, inner_optimizer, 0.1)
        self.inner_optimizer = with_inner_clip("Reptile", self.inner_optimizer, inner_clip)
        self.workers = Workers(workers)

    def adapt(self, params: Params, support: Batch, steps: int | None = None) -> Params:
        return last(self._inner_loop(params, support, self.inner_steps if steps is None else steps))

    def trajectory(self, params: Params, support: Batch, steps: int) -> Iterator[Params]:
        return self._inner_loop(params, support, steps)

    def meta_gradient(self, params: Params, batch: Task) -> MetaGradient:
        def of_task(task: Task) -> tuple[PyTree, torch.Tensor, torch.Tensor]:
            trained, loss, score = self._train(params, task)
            trees: list[Any] = [params, trained]
            return pytree.tree_map(lambda start, end: start - end, *trees), loss, score

        return MetaGradient.of_tasks(self.workers.each(of_task, batch))

    def _train(self, params: Params, task: Task) -> tuple[Params, torch.Tensor, torch.Tensor]:
        """W of one task, with the query loss and the mean score of the last minibatch before the step on it."""
        gradient = neo.value_and_grad(self._loss, argnums=0, has_aux=True)
        state = self.inner_optimizer.init(params)
        for batch in minibatches(task, self.inner_steps):
            (_, prediction), descent = gradient(params, batch)
            params, state = self.inner_optimizer.step(params, descent, state)
        loss = self.objective.query_loss(prediction, batch.y)
        return params, loss, self.objective.score(prediction, batch.y).mean()

    def _inner_loop(self, params: Params, support: Batch, steps: int) -> Iterator[Params]:
        """What adapt() and trajectory() are made of, so that they never go different ways."""
        return trajectory(
            lambda params, batch: self._loss(params, batch)[0],
            params,
            support,
            optimizer=self.inner_optimizer,
            steps=steps,
        )

    def _loss(self, params: Params, batch: Batch) -> tuple[Any, torch.Tensor]:
        prediction = self.model(params, batch.x)
        return self.objective.support_loss(prediction, batch.y), prediction.data


def minibatches(task: Task, count: int) -> list[Batch]:
    """The examples of a task, support and query, in `count` parts. Raises: ValueError where there are too few."""
    examples = len(task.support) + len(task.query)
    if max(len(task.support), len(task.query)) < count:
        raise ValueError(
            f"Reptile: inner_steps={count} minibatches are more than a task of {examples} examples has; choose fewer "
            "inner_steps, or more task.queries."
        )
    return [
        Batch(
            torch.cat([task.support.x[start::count], task.query.x[start::count]]),
            torch.cat([task.support.y[start::count], task.query.y[start::count]]),
        )
        for start in range(count)
    ]
