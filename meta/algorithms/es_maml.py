"""ES-MAML: MAML by evolution strategies, without backpropagation. Song et al. 2020, arXiv:1910.01215."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meta.evolution import Smoothing, generator
from meta.inner_loop import InnerLoop, Iterates
from meta.learner import MetaLearner, Predictor, Step, TaskResult
from meta.problems import Classification, Problem
from neo.nn import Module
from neo.optim import Optimizer
from neo.typing import PyTree

__all__ = ["ESMAML"]

OUTER, INNER = 0, 1  # streams of step.seed
ADAPTATIONS = ("gradient", "es")


class ESMAML(MetaLearner):
    """Learn an initialisation as MAML does, by the values of the adapted query loss at perturbed initialisations.

    minimise over θ  mean over tasks of  E[J(θ + σ ε)],  J(θ) = L_query(U(θ)),  ε ~ N(0, I)
    its gradient as ĝ = 1/(2 σ n) Σᵢ (J(θ + σ εᵢ) − J(θ − σ εᵢ)) εᵢ       (the paper's zero-order ES-MAML, antithetic)

    The adaptation U may be anything that has values, differentiable or not. Here it is `inner_steps` optimiser steps on
    the support loss, with
        adaptation="gradient"   its gradient (first derivatives alone: nothing is differentiated twice), or
        adaptation="es"         ĝ of it, with noise of its own: no derivative is taken anywhere.
    Other noise is drawn for every task, iteration and inner step, as a pure function of step.seed. All perturbed
    initialisations of a task adapt with the same inner noise.

    The loss and score of a task are those of θ itself; train/perturbed_loss is the mean of J over the perturbed ones.

    Args:
        model: its params are the meta-parameters.
        sigma: σ > 0, in units of the parameters: details of J that are finer are smoothed away.
        pairs: n ≥ 1, antithetic pairs a task; the estimate averages over pairs · meta_batch of them.
        vectorized: the 2 n adaptations of a task in one call of each kernel (neo.vmap), for small nets and GPUs.
            Changes results by rounding, and with dropout the masks.
        adaptation: "gradient" or "es".
        inner_sigma, inner_pairs: σ and n of adaptation="es"; as outside where None.
        inner_lr: α > 0, the same at every step; 0.1 where None.
        inner_steps: ≥ 0.
        inner_clip: the largest global norm of an inner gradient or estimate, > 0. None: no limit.
        adapt: which parameters adapt: a pattern of their names as a shell has it, "head.*", or several; "*" for all.
        problem: losses and score; cross-entropy by default.
        inner_optimizer: in the place of sgd(inner_lr), without inner_lr.
    Raises: ValueError naming the argument.
    Cost: 2 n + 1 adaptations a task; memory of one, and of the noise, however many inner steps there are. The error of
        the estimate relative to the gradient is about √(parameters / (pairs · meta_batch)), so that a step's use falls
        as nets grow. Needs step.seed: neither batched=true nor trainer.capture=true.
    """

    def __init__(
        self,
        model: Module,
        *,
        sigma: float = 0.1,
        pairs: int = 10,
        vectorized: bool = False,
        adaptation: str = "gradient",
        inner_sigma: float | None = None,
        inner_pairs: int | None = None,
        inner_lr: float | None = None,
        inner_steps: int = 1,
        inner_clip: float | None = None,
        adapt: str | Sequence[str] = "*",
        problem: Problem | None = None,
        inner_optimizer: Optimizer | None = None,
    ):
        if adaptation not in ADAPTATIONS:
            raise ValueError(
                f"ESMAML: adaptation must be one of {', '.join(ADAPTATIONS)}; got {adaptation!r}"
            )
        if adaptation == "gradient" and (inner_sigma is not None or inner_pairs is not None):
            raise ValueError(
                f"ESMAML: inner_sigma={inner_sigma} and inner_pairs={inner_pairs} are of adaptation='es', and "
                "adaptation='gradient' reads neither; leave them out."
            )
        self.model, self.adaptation = model, adaptation
        self.smoothing = smoothing("", sigma, pairs, vectorized)
        self.inner_smoothing = smoothing(
            "inner_",
            sigma if inner_sigma is None else inner_sigma,
            pairs if inner_pairs is None else inner_pairs,
            vectorized,
        )
        self.problem = problem or Classification()
        self.inner = InnerLoop(
            "ESMAML",
            steps=inner_steps,
            lr=inner_lr,
            optimizer=inner_optimizer,
            default_lr=0.1,
            clip=inner_clip,
            adapt=adapt,
        )

    def adapt(self, params: PyTree, support: Any, step: Step) -> Predictor:
        return Predictor.of_model(self.model, self.iterates(params, support, step))

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        def loss_after_adaptation(params: PyTree) -> Any:
            return self.adapted_query_loss(params, task, step)[0]

        noise = generator(params, step.seed, OUTER)
        gradient, losses = self.smoothing.gradient(loss_after_adaptation, params, noise)
        loss, score = self.adapted_query_loss(params, task, step)
        return TaskResult(gradient, loss, score, metrics={"perturbed_loss": losses.mean()})

    def adapted_query_loss(self, params: PyTree, task: Any, step: Step) -> tuple[Any, Any]:
        """J, and the score."""
        adapted = self.iterates(params, task.support, step).end()
        return self.problem.query_loss(lambda x: self.model(adapted, x), task.query)

    def iterates(self, params: PyTree, support: Any, step: Step) -> Iterates:
        """The model's parameters after 0, 1, ... inner steps."""
        by_values = None
        if self.adaptation == "es":
            noise = generator(params, step.seed, INNER)  # goes on from inner step to inner step

            def by_values(loss: Any) -> Any:
                def estimate(at: PyTree, *given: Any) -> PyTree:
                    return self.inner_smoothing.gradient(lambda point: loss(point, *given), at, noise)[0]

                return estimate

        return self.inner.iterates(
            self.support_loss, params, support, steps=step.inner_steps, differentiate=by_values
        )

    def support_loss(self, params: PyTree, support: Any) -> Any:
        return self.problem.support_loss(lambda x: self.model(params, x), support)


def smoothing(which: str, sigma: float, pairs: int, vectorized: bool) -> Smoothing:
    """Raises: ValueError naming the argument, `which` in front of its name."""
    if not 0 < sigma < float("inf"):
        raise ValueError(f"ESMAML: {which}sigma must be a finite number above 0, got {sigma}")
    if not isinstance(pairs, int) or isinstance(pairs, bool) or pairs < 1:
        raise ValueError(f"ESMAML: {which}pairs must be an integer of 1 or more, got {pairs!r}")
    return Smoothing(sigma, pairs, vectorized)
