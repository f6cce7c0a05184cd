"""Reptile: move towards what a task's own training makes of the parameters. Nichol et al. 2018, arXiv:1803.02999."""

from __future__ import annotations

from typing import Any

import torch

import neo
from meta.class_members import expect_labels
from meta.inner_loop import InnerLoop
from meta.learner import MetaLearner, Predictor, Step, TaskResult
from meta.problems import Classification, Problem, constant
from neo import pytree
from neo.nn import Module
from neo.optim import Optimizer
from neo.typing import PyTree
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
        problem: losses and score; cross-entropy by default. Its sets are examples, which minibatches can be cut from.
        inner_optimizer: in the place of sgd(inner_lr), without inner_lr; the paper has Adam with β₁ = 0.
    Cost: k first-order gradients of (support + query) / k examples each a task; no session outlives its step. adapt()
        keeps the parameters after each step, for the predictor's trajectory.
    """

    def __init__(
        self,
        model: Module,
        *,
        inner_lr: float | None = None,
        inner_steps: int = 5,
        inner_clip: float | None = None,
        problem: Problem | None = None,
        inner_optimizer: Optimizer | None = None,
    ):
        self.model = model
        self.problem = problem or Classification()
        self.inner = InnerLoop(
            "Reptile",
            steps=inner_steps,
            lr=inner_lr,
            optimizer=inner_optimizer,
            default_lr=0.1,
            clip=inner_clip,
            least_steps=2,
        )

    def adapt(self, params: PyTree, support: Any, step: Step) -> Predictor:
        def loss(params: PyTree, support: Any) -> Any:
            return self.loss_and_predictions(params, support)[0]

        expect_labels("Reptile", support)  # which training needs, too
        iterates = self.inner.iterates(loss, params, support, steps=step.inner_steps)
        return Predictor.of_model(self.model, iterates)

    def task_gradient(self, params: PyTree, task: Task, step: Step) -> TaskResult:
        steps = self.inner.steps if step.inner_steps is None else step.inner_steps
        gradient = neo.grad(self.loss_and_predictions, argnums=0, has_aux=True)
        optimizer = self.inner.optimizer
        at, state = params, optimizer.init(params)
        for batch in minibatches(task, steps):
            descent, predicted = gradient(at, batch)
            before = at
            at, state = optimizer.step(at, descent, state)

        def predict(x: Any) -> Any:
            """As before the last step, whose session has it already."""
            known = [prediction for given, prediction in predicted if given is x]
            return constant(known[0] if known else self.model(before, x))

        loss, score = self.problem.query_loss(predict, batch)
        trees: list[Any] = [params, at]
        return TaskResult(pytree.tree_map(lambda start, end: start - end, *trees), loss, score)

    def loss_and_predictions(self, params: PyTree, batch: Batch) -> tuple[Any, list[tuple[Any, Any]]]:
        """The loss, and each x that it was predicted for, with the prediction."""
        predicted = []

        def predict(x: Any) -> Any:
            predicted.append((x, self.model(params, x)))
            return predicted[-1][1]

        return self.problem.support_loss(predict, batch), predicted


def minibatches(task: Task, count: int) -> list[Batch]:
    """The examples of a task, support and query, in `count` parts. Raises: ValueError where there are too few."""
    expect_labels("Reptile", task.support)
    examples = len(task.support) + len(task.query)
    if max(len(task.support), len(task.query)) < count:
        raise ValueError(
            f"Reptile: inner_steps={count} minibatches are more than a task of {examples} examples has; choose fewer "
            "inner_steps, or more task.queries."
        )
    return [
        type(task.support)(
            torch.cat([task.support.x[start::count], task.query.x[start::count]]),
            torch.cat([task.support.y[start::count], task.query.y[start::count]]),
        )
        for start in range(count)
    ]
