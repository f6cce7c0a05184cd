"""Rates, weight decays and augmentation strengths by gradient. Maclaurin, Duvenaud, Adams 2015, arXiv:1502.03492."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

import neo
from meta.algorithms.training_rule import TrainingRule
from meta.class_members import expect_labels
from meta.inner_loop import Iterates
from meta.learned_augmentation import LearnedAugmentation
from meta.learner import Step, TaskResult
from meta.problems import constant
from neo import LiteTensor
from neo.nn import Module
from neo.typing import PyTree

__all__ = ["Hyperparameters"]


class Hyperparameters(TrainingRule):
    """Learn a learning rate and a weight decay for each tensor of a model, by what they do to a validation loss.

    θ ← θ − α_l ∇_θ (L_support(θ) + Σ_l λ_l/2 ‖θ_l‖²), `inner_steps` times;  minimise L_query(θ) over log α, log λ

    With augment the inputs of each step's L_support are transformed at random, another draw a step, and how strongly is
    learned, too, by the gradient that goes through the draws (meta.learned_augmentation.LearnedAugmentation).

    Unrolled, each task is a training run of its own, from weights drawn anew. Online, there is one run, whose weights
    are carried from meta-update to meta-update (state): each takes `inner_steps` of its steps, and the hypergradient
    goes through these alone (Luketina et al. 2016, arXiv:1511.06727, with one step), so that it is short-sighted and
    costs no more for a long run. The tasks of a meta-batch are then copies, averaged after these steps.

    Meta-parameters: {"log_rate": log α, "log_decay": log λ}, scalars by the tensor's name; with augment "log_strength",
    scalars by the kind, which are reported as train/<kind>.

    Args:
        inner_lr: α to begin with, > 0.
        decay: λ to begin with, > 0.
        online: one run over all meta-updates, in the place of one in each task.
        augment: kind of augmentation ("translation", "brightness", "noise") → the strength to begin with, > 0; none by
            default. The support set must then have inputs x.
        others: as TrainingRule has them; all parameters are trained, by gradient descent.
    Cost: as MAML's; online, memory for `inner_steps` steps.
    """

    def __init__(
        self,
        model: Module,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 20,
        decay: float = 0.001,
        online: bool = False,
        augment: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        for name, value in (("inner_lr", inner_lr), ("decay", decay)):
            if not 0 < value < math.inf:
                raise ValueError(
                    f"Hyperparameters: {name} is where a positive number is searched from, by its logarithm; it must "
                    f"be finite and above 0, got {value}"
                )
        super().__init__(model, inner_steps=inner_steps, **options)
        self.inner_lr, self.decay, self.online = inner_lr, decay, online
        self.augmentation = LearnedAugmentation("Hyperparameters", augment or {})

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        def all_at(value: float) -> dict[str, LiteTensor]:
            names = self.model.init(seed=0)
            return {name: LiteTensor(torch.tensor(math.log(value), device=device)) for name in names}

        learned: PyTree = {"log_rate": all_at(self.inner_lr), "log_decay": all_at(self.decay)}
        return (
            {**learned, "log_strength": self.augmentation.initial(device)} if self.augmentation else learned
        )

    def init_state(self, params: PyTree) -> PyTree:
        return self.start(params, Step()) if self.online else ()

    def iterates(self, params: PyTree, support: Any, step: Step, **options: Any) -> Iterates:
        learned: Any = params
        decays = {name: torch.exp(log) for name, log in learned["log_decay"].items()}
        if self.augmentation:  # all draws before all steps: what is computed again must not draw again
            expect_labels("Hyperparameters", support)
            steps = self.inner.steps if step.inner_steps is None else step.inner_steps
            drawn = [self.augmentation.draw(support.x) for _ in range(steps)]
            options |= {"at_step": lambda taken: {}}  # loss is told how many steps were taken

        def loss(weights: Any, support: Any, taken: int = 0) -> Any:
            norms = sum(0.5 * decay * weights[name].square().sum() for name, decay in decays.items())
            if self.augmentation:
                x = self.augmentation(support.x, drawn[taken], learned["log_strength"])
                support = type(support)(x, support.y)
            return self.support_loss(weights, support) + norms

        return self.inner.iterates(
            loss,
            step.state if self.online else self.start(params, step),
            support,
            steps=step.inner_steps,
            estimator=self.estimator,
            optimizer=neo.optim.sgd({name: torch.exp(log) for name, log in learned["log_rate"].items()}),
            **options,
        )

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        def loss_after_training(params: PyTree) -> tuple[Any, Any]:
            trained = self.iterates(params, task.support, step).end()
            loss, score = self.problem.query_loss(lambda x: self.model(trained, x), task.query)
            return loss, (score, trained)

        found = self.estimator.estimate(loss_after_training, params, step)
        score, trained = found.aux
        state = {name: LiteTensor(constant(leaf)) for name, leaf in trained.items()} if self.online else None
        logs: Any = params
        strengths = {kind: constant(log).exp() for kind, log in logs.get("log_strength", {}).items()}
        return TaskResult(found.gradient, found.value, score, state, {**found.metrics, **strengths})
