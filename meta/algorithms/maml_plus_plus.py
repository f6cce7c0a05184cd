"""MAML++: MAML that trains stably with several inner steps. Antoniou, Edwards and Storkey 2019, arXiv:1810.09502.

What the paper leaves open is as in the authors' code, github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch

import neo
from meta.algorithms.maml import MAML
from meta.estimators import Estimator, FirstOrder
from meta.inner_hyperparameters import a_step
from meta.inner_loop import Iterates
from meta.learner import Predictor, Step, TaskResult
from meta.patterns import expect_patterns, matching
from meta.problems import constant
from meta.running_statistics import Gathered, Running, initial, norm_layers
from neo import LiteTensor, pytree
from neo.nn import (
    ChannelsLast,
    Conv2d,
    Dropout,
    Flatten,
    Lambda,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    Sine,
    SpatialMean,
)
from neo.typing import PyTree

__all__ = ["MAMLPlusPlus", "multi_step_weights"]

NORM = "norm*"  # what the norms of Neo's own models are called, within blocks too
PLAIN = (
    ChannelsLast,
    Conv2d,
    Dropout,
    Flatten,
    Lambda,
    Linear,
    MaxPool2d,
    ReLU,
    Sine,
    SpatialMean,
)  # none normalises

Statistics = Gathered | Running | None


class MAMLPlusPlus(MAML):
    """MAML in which every inner step counts, has rates of its own, and a batch norm of its own.

    minimise over (θ, α, γ, β)  mean over tasks of  Σ_k w_k L_query(θ_k; γ_k, β_k),    k = 1 ... inner_steps,
    θ_k = θ_{k−1} − α_{k−1} ∇L_support(θ_{k−1}; γ_{k−1}, β_{k−1}),    a rate α a tensor of θ and step    (section 4)

    Each part is a switch of its own; with all of them off this is MAML, bit for bit.

    Meta-parameters: {"params": θ, "rates": {name: (inner_steps,)}}, rates of what adapts, and norm parameters stacked
    in θ as (inner_steps + 1, *shape); without learned_rates θ alone.

    Args:
        inner_lr: what every rate begins at, finite and > 0; what it means depends on the problem's reduction.
        inner_steps: ≥ 1.
        msl_iterations: multi-step loss: over so many meta-updates the weights w go linearly from 1 / inner_steps each
            to the last step alone, see multi_step_weights; 0: the last step's loss from the start. The paper: 10
            epochs of 500.
        first_order_iterations: derivative-order annealing: no second derivatives for so many meta-updates; 0: none. The
            paper's text has 50 epochs of 500, the authors' configurations 0.
        learned_rates: learn the rates α.
        per_step_norm: learn scale and shift of batch norm for each number of inner steps taken; they do not adapt. The
            authors' code has inner_steps sets, a query being normalised by the set of the step just taken; here θ_k
            has its set on support and queries alike.
        norm: which parameters are scale and shift: a pattern of their names, or several, of which every one must match;
            the default means norms within blocks too ("*.norm*"), and may match none in a sequence of layers without
            any norm, such as an MLP.
        running_statistics: gather running mean and variance of batch norm for each number of inner steps, in the state,
            and use them in evaluation. False: batches are normalised by their own statistics at all times, as the
            authors' code does though it gathers running ones. Needs a neo.nn.Sequential.
        momentum: of the running statistics, in [0, 1].
        others: as MAML has them.
    With more inner steps in an evaluation than in training the last rates, scales, shifts and statistics serve on.
    Metrics: multi_step_loss, what the meta-gradient is of; the loss is that after the last step.
    Cost: while the weights anneal, a query pass an inner step, and memory for all of them. With running_statistics the
        model runs layer by layer, without the kernels that fuse whole blocks.
    """

    def __init__(
        self,
        model: Module,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 5,
        msl_iterations: int = 5000,
        first_order_iterations: int = 0,
        learned_rates: bool = True,
        per_step_norm: bool = True,
        norm: str | Sequence[str] = NORM,
        running_statistics: bool = False,
        momentum: float = 0.1,
        adapt: str | Sequence[str] = "*",
        **options: Any,
    ):
        if learned_rates and options.get("inner_optimizer") is not None:
            raise ValueError(
                "MAMLPlusPlus: with learned_rates the inner optimiser is SGD at rates that it learns; leave "
                "inner_optimizer out, or set learned_rates=False."
            )
        if options.get("inner_learned"):
            raise ValueError(
                "MAMLPlusPlus: what it learns of its inner loop is learned_rates; leave inner_learned out."
            )
        for name, count in (
            ("msl_iterations", msl_iterations),
            ("first_order_iterations", first_order_iterations),
        ):
            if not isinstance(count, int) or count < 0:
                raise ValueError(f"MAMLPlusPlus: {name} must be an integer of 0 or more, got {count!r}")
        if not (math.isfinite(inner_lr) and inner_lr > 0):
            raise ValueError(f"MAMLPlusPlus: inner_lr must be a finite number greater than 0, got {inner_lr}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"MAMLPlusPlus: momentum must be in [0, 1], got {momentum}")
        given = options.get("inner_optimizer") is not None
        lr = None if given else inner_lr
        super().__init__(model, inner_lr=lr, inner_steps=inner_steps, adapt=adapt, **options)
        if inner_steps < 1:
            raise ValueError(f"MAMLPlusPlus: inner_steps must be 1 or more, got {inner_steps}")
        if first_order_iterations and isinstance(self.estimator, FirstOrder):
            raise ValueError(
                f"MAMLPlusPlus: first_order_iterations={first_order_iterations} goes over to second derivatives, which "
                "first_order leaves out for good; leave one out."
            )
        self.inner_lr, self.learned_rates = inner_lr, learned_rates
        self.msl_iterations, self.first_order_iterations = msl_iterations, first_order_iterations
        self.per_step_norm, self.norm = per_step_norm, expect_patterns("MAMLPlusPlus", "norm", norm)
        self.momentum = momentum
        self.tracked = norm_layers("MAMLPlusPlus", model) if running_statistics else {}
        self._expect_single_runs(self.estimator)

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        params: Any = self.model.init(seed=seed, device=device)
        norms = self._norms(params)
        rates: PyTree = pytree.tree_map(self._first_rates, self.inner.adapting(params, besides=norms))
        if norms:
            sets = self.inner.steps + 1
            stacked = {name: LiteTensor(torch.stack([params[name].data] * sets)) for name in norms}
            params = {**params, **stacked}
        return {"params": params, "rates": rates} if self.learned_rates else params

    def init_state(self, params: PyTree) -> PyTree:
        if not self.tracked:
            return ()
        return initial(self.tracked, self.inner.steps + 1, pytree.leaves(params)[0].data)

    def adapt(self, params: PyTree, support: Any, step: Step) -> Predictor:
        statistics = self._statistics(step)
        iterates = self.iterates(params, support, step, statistics)
        if statistics is None:
            return Predictor.of_model(self.model, iterates)
        stages = [
            Predictor(self._predict(adapted, taken, statistics), adapted)
            for taken, adapted in enumerate(iterates)
        ]
        return Predictor(stages[-1].fn, stages[-1].params, stages)

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        statistics, weights = self._statistics(step), self._weights(step)

        def meta_loss(params: PyTree) -> tuple[Any, tuple[Any, Any]]:
            total: Any = 0
            iterates = self.iterates(params, task.support, step, statistics)
            after = (
                enumerate(iterates) if len(weights) > 1 else ((taken, iterates.end()) for taken in weights)
            )
            for taken, adapted in after:
                if taken in weights:
                    predict = self._predict(adapted, taken, statistics)
                    loss, score = self.problem.query_loss(predict, task.query)
                    total = total + loss * weights[taken] if len(weights) > 1 else loss
            return total, (constant(loss), score)

        found = self._estimator(step).estimate(meta_loss, params, step)
        loss, score = found.aux
        state = statistics.updated(step.state) if isinstance(statistics, Gathered) else None
        metrics = {"multi_step_loss": found.value} if self.msl_iterations else {}
        return TaskResult(found.gradient, loss, score, state, {**metrics, **found.metrics})

    def iterates(
        self, params: PyTree, support: Any, step: Step, statistics: Statistics = None, **options: Any
    ) -> Iterates:
        """The model's parameters after 0, 1, ... inner steps, each with its own scale and shift of batch norm."""
        both: Any = params
        weights = both["params"] if self.learned_rates else both
        norms = self._norms(weights)
        sets = {name: torch.unbind(weights[name]) for name in norms}

        def at_step(taken: int) -> dict[str, Any]:
            return {name: rows[min(taken, len(rows) - 1)] for name, rows in sets.items()}

        def loss(params: PyTree, support: Any, taken: int = 0) -> Any:
            return self.problem.support_loss(self._predict(params, taken, statistics), support)

        return self.inner.iterates(
            loss,
            weights,
            support,
            steps=step.inner_steps,
            estimator=self._estimator(step),
            optimizer=neo.optim.sgd(a_step(both["rates"])) if self.learned_rates else None,
            at_step=at_step if norms or self.tracked else None,
            **options,
        )

    def with_estimator(self, estimator: Estimator) -> Self:
        self._expect_single_runs(estimator)
        other = super().with_estimator(estimator)
        other.first_order_iterations = 0  # which would put another in its place
        return other

    def _expect_single_runs(self, estimator: Estimator) -> None:
        if self.tracked and estimator.repeats:
            raise ValueError(
                "MAMLPlusPlus: running_statistics gathers the statistics of every batch once, and meta_gradient="
                f"{estimator.name!r} runs the model more often; leave one out."
            )

    def _estimator(self, step: Step) -> Estimator:
        annealing = self.first_order_iterations and step.iteration < self.first_order_iterations
        return FirstOrder() if annealing else self.estimator

    def _weights(self, step: Step) -> dict[int, float]:
        """Of the query loss after so many inner steps."""
        steps = self.inner.steps if step.inner_steps is None else step.inner_steps
        if steps < 2 or not self.msl_iterations or step.iteration >= self.msl_iterations:
            return {steps: 1.0}
        weights = multi_step_weights(step.iteration / self.msl_iterations, steps)
        return dict(enumerate(weights, start=1))

    def _statistics(self, step: Step) -> Statistics:
        if not self.tracked:
            return None
        return Gathered(self.momentum) if step.training else Running(step.state)

    def _predict(self, params: PyTree, taken: int, statistics: Statistics) -> Callable[[Any], Any]:
        if statistics is None:
            return lambda x: self.model(params, x)
        return lambda x: statistics.predict(self.model, params, x, taken)

    def _norms(self, params: Any) -> list[str]:
        """Names of what there is one of for each number of inner steps."""
        if not self.per_step_norm or (self.norm == (NORM,) and _without_norm(self.model)):
            return []
        if self.norm == (NORM,) and (found := [name for name in params if ".norm" in f".{name}"]):
            return found
        try:
            return matching("MAMLPlusPlus", "norm", self.norm, params)
        except ValueError as error:
            raise ValueError(
                f"{error} Name the scales and shifts of its batch norms with algorithm.norm, or, if it has none, set "
                "algorithm.per_step_norm=false."
            ) from None

    def _first_rates(self, leaf: LiteTensor) -> LiteTensor:
        return LiteTensor(leaf.data.new_full((self.inner.steps,), self.inner_lr))


def multi_step_weights(progress: float, steps: int) -> list[float]:
    """Weights of the query losses after inner steps 1, 2, ..., `steps`, which add up to 1.

    With K = steps, each but the last is max((1 − progress) / K, 0.03 / K), and the last is the rest: equal weights
    first, the last step's alone (but for the floor) in the end. get_per_step_loss_importance_vector() of the authors'
    code, where progress moves once an epoch, every 500 meta-updates; here at each.

    Args:
        progress: of the annealing, in [0, 1].
        steps: K ≥ 1.
    """
    other = max((1 - progress) / steps, 0.03 / steps)
    last = min((1 + progress * (steps - 1)) / steps, 1 - (steps - 1) * 0.03 / steps)
    return [*([other] * (steps - 1)), last]


def _without_norm(model: Module) -> bool:
    """Whether a model shows its layers, and none of them normalises."""
    return isinstance(model, Sequential) and all(isinstance(layer, PLAIN) for _, layer in model.layers)
