"""Model-agnostic meta-learning. Finn, Abbeel and Levine 2017, arXiv:1703.03400."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch

from meta.estimators import Estimator, Implicit, estimator_named
from meta.inner_loop import InnerLoop, Iterates
from meta.learner import MetaLearner, Predictor, Step, TaskResult
from meta.problems import Classification, Problem
from neo.nn import Module
from neo.optim import Optimizer
from neo.typing import PyTree

__all__ = ["MAML"]


class MAML(MetaLearner):
    """Learn an initialisation from which a few gradient steps solve a new task.

    minimise over θ  mean over tasks of  L_query(θ′),  θ′ = θ − α ∇L_support(θ), `inner_steps` times
    (equation 1, Algorithm 2).

    Args:
        model: its params are the meta-parameters.
        inner_lr: α > 0, dimensionless, the same at every step; what it means depends on the problem's reduction;
            0.4 where None.
        inner_steps: gradient steps on the support set, ≥ 0.
        inner_clip: the largest global norm of an inner gradient, > 0: longer ones are scaled down to it, and the
            meta-gradient goes through that. None: no limit.
        meta_gradient: how the meta-gradient goes through the inner loop: "reverse" (exact, through every step), "mixed"
            (the same, in the memory of the parameters), "first_order" (no second derivatives: FOMAML, section 5.2),
            "truncated" (exact through the last `truncated_steps`), "implicit" (at the solution of the inner problem:
            iMAML), "es" (from values alone), or an estimator: see meta.estimators for the cost and the bias of each.
        first_order: True for meta_gradient="first_order".
        truncated_steps, mixed_segment, implicit_strength, implicit_iterations, implicit_tolerance, es_sigma, es_pairs:
            settings of the estimators, as meta.estimators has them; None: the estimator's default.
        adapt: which parameters adapt: a pattern of their names as a shell has it, "head.*", or several; "*" for all.
        freeze: which of those do not adapt, all the same: patterns alike.
        problem: losses and score; cross-entropy by default.
        inner_optimizer: in the place of sgd(inner_lr), without inner_lr.
        inner_learned: which numbers of the inner optimiser are meta-parameters: "lr" (a rate a parameter tensor and
            inner step), "momentum", "weight_decay" ..., or several; each begins at the optimiser's own. See
            meta.inner_hyperparameters. Meta-parameters are then {"params": θ, "inner": the numbers by name}.
    Cost: adapt() keeps the parameters after each inner step, for the predictor's trajectory.
    """

    def __init__(
        self,
        model: Module,
        *,
        inner_lr: float | None = None,
        inner_steps: int = 1,
        inner_clip: float | None = None,
        meta_gradient: str | Estimator = "reverse",
        first_order: bool = False,
        adapt: str | Sequence[str] = "*",
        freeze: str | Sequence[str] = (),
        problem: Problem | None = None,
        inner_optimizer: Optimizer | None = None,
        inner_learned: str | Sequence[str] = (),
        truncated_steps: int | None = None,
        mixed_segment: int | None = None,
        implicit_strength: float | None = None,
        implicit_iterations: int | None = None,
        implicit_tolerance: float | None = None,
        es_sigma: float | None = None,
        es_pairs: int | None = None,
    ):
        owner = type(self).__name__
        self.model = model
        self.problem = problem or Classification()
        self.estimator = estimator_named(
            owner,
            meta_gradient,
            first_order,
            truncated_steps=truncated_steps,
            mixed_segment=mixed_segment,
            implicit_strength=implicit_strength,
            implicit_iterations=implicit_iterations,
            implicit_tolerance=implicit_tolerance,
            es_sigma=es_sigma,
            es_pairs=es_pairs,
        )
        self.inner = InnerLoop(
            owner,
            steps=inner_steps,
            lr=inner_lr,
            optimizer=inner_optimizer,
            clip=inner_clip,
            adapt=adapt,
            freeze=freeze,
            learned=inner_learned,
        )
        if self.inner.learned and isinstance(self.estimator, Implicit):
            raise ValueError(
                f"{owner}: meta_gradient='implicit' differentiates the solution of the inner problem, in which no "
                f"number of the optimiser stands, so that inner_learned={inner_learned} would stay as it is; leave one "
                "of the two out."
            )

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        params: PyTree = self.model.init(seed=seed, device=device)
        return self.with_numbers(params)

    def adapt(self, params: PyTree, support: Any, step: Step) -> Predictor:
        return Predictor.of_model(self.model, self.iterates(params, support, step))

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        def loss_after_adaptation(params: PyTree) -> tuple[Any, Any]:
            adapted = self.iterates(
                params, task.support, step
            ).end()  # the inner loop is a session in a session
            return self.problem.query_loss(lambda x: self.model(adapted, x), task.query)

        found = self.estimator.estimate(loss_after_adaptation, params, step)
        return TaskResult(found.gradient, found.value, found.aux, metrics=found.metrics)

    def with_estimator(self, estimator: Estimator) -> Self:
        """The same algorithm with another estimator of its meta-gradient, at every iteration; self stays as it is."""
        other = copy.copy(self)
        other.estimator = estimator
        return other

    def iterates(self, params: PyTree, support: Any, step: Step, **options: Any) -> Iterates:
        """The model's parameters after 0, 1, ... inner steps; options: of meta.InnerLoop.iterates."""
        both: Any = params
        return self.inner.iterates(
            self.support_loss,
            self.weights(params),
            support,
            steps=step.inner_steps,
            estimator=self.estimator,
            numbers=both["inner"] if self.inner.learned else None,
            **options,
        )

    def with_numbers(self, params: PyTree, **learned: PyTree) -> PyTree:
        """Meta-parameters: the model's params, with what else is learned, if anything is, by name."""
        numbers = self.inner.initial(params)
        further = {**learned, "inner": numbers} if numbers else learned
        return {"params": params, **further} if further else params

    def weights(self, params: PyTree) -> PyTree:
        """The model's params among the meta-parameters, as they are before the first inner step."""
        both: Any = params
        return both["params"] if self.inner.learned else params

    def support_loss(self, params: PyTree, support: Any) -> Any:
        return self.problem.support_loss(lambda x: self.model(params, x), support)
