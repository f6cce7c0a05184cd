"""Online problems: an inner optimisation that goes on over outer steps, a window of its steps at a time."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from meta.estimators import Estimator, Mixed, estimator_named
from meta.learner import MetaLearner, Step, TaskResult
from neo.typing import PyTree

__all__ = ["OnlineLearner"]

ESTIMATORS = ("reverse", "mixed", "es")


class OnlineLearner(MetaLearner):
    """Learn, while an inner run goes on, what it is made of: rates, a loss, an optimiser, weights of examples.

        w₀ = start(θ);  wₜ₊₁ = inner_step(wₜ, θ), with loss Lₜ(wₜ₊₁; θ);  minimise over θ the mean of Lₜ over the run

    Each outer step takes the next `window` inner steps, on the task of that step, from where the last one has ended,
    and steps θ by an estimate of the gradient of their mean loss:

    - meta_gradient="reverse" or "mixed": exact through the window, what came before being a constant: truncated
      backpropagation through time. Biased by what θ has done in earlier windows, towards what pays off within one
      (short-horizon bias: Wu et al. 2018, arXiv:1803.02021).
    - "es": persistent evolution strategies (Vicol et al. 2021), without that bias: see meta.EvolutionStrategies.

    A subclass defines start, inner_step and adapt (what evaluations do with θ), and `model` or init. It takes inner
    gradients by neo.grad(..., mode=self.estimator.mode). The run is the carried state: pytrees of tensors and numbers,
    of the same form at every step; it is in checkpoints, and a resumed run goes on bit for bit.

    Args:
        window: inner steps of an outer step, ≥ 1.
        restart_every: outer steps (windows) of a run, ≥ 1, after which another one starts; None: it never ends.
        meta_gradient: "reverse", "mixed", "es", or such an estimator.
        settings: of the estimator, es_sigma=0.1 or es_pairs=10.
    Raises: ValueError naming the argument; at the second task of a meta-batch, for there is one run: set
        trainer.meta_batch=1, and more es_pairs or a larger task for less noise.
    Cost: of reverse, memory of the window; of es 2 n + 1 windows, without a tape.
    """

    def __init__(
        self,
        *,
        window: int = 1,
        restart_every: int | None = None,
        meta_gradient: str | Estimator = "reverse",
        **settings: Any,
    ) -> None:
        owner = type(self).__name__
        for name, value in (("window", window), ("restart_every", restart_every)):
            if not _positive(value) and not (name == "restart_every" and value is None):
                raise ValueError(f"{owner}: {name} must be an integer of 1 or more, got {value!r}")
        self.window, self.restart_every = window, restart_every
        self.estimator = estimator_named(owner, meta_gradient, **settings)
        if self.estimator.name not in ESTIMATORS:
            raise ValueError(
                f"{owner}: meta_gradient must be one of {', '.join(ESTIMATORS)}, got {self.estimator.name!r}; `window` "
                "says through how many inner steps the gradient goes."
            )
        if isinstance(self.estimator, Mixed) and self.estimator.segment is not None:
            raise ValueError(
                f"{owner}: mixed_segment={self.estimator.segment} cuts an adaptation that has an end, and nothing "
                "would read it here; leave it out, and choose a shorter window."
            )

    @abstractmethod
    def start(self, params: PyTree, step: Step) -> PyTree:
        """w₀: any pytree of tensors and numbers, differentiable by params; step.seed seeds what is drawn."""

    @abstractmethod
    def inner_step(
        self, params: PyTree, run: Any, task: Any, step: Step, taken: int
    ) -> tuple[PyTree, Any, Any]:
        """(wₜ₊₁, Lₜ a scalar, score a scalar), `taken` inner steps having been taken since the start."""

    def init_state(self, params: PyTree) -> PyTree:
        return {"windows": 0, "inner": self.estimator.carry(params, self.start(params, Step()))}

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        if step.slot:
            raise ValueError(
                f"{type(self).__name__}: one inner run goes on over outer steps, which take one task each; got a "
                "second task in a meta-batch. Set trainer.meta_batch=1."
            )
        state: Any = step.state
        windows = state["windows"]

        def window(params: PyTree, run: Any) -> tuple[Any, tuple[Any, PyTree]]:
            run = self.start(params, step) if run is None else run
            loss: Any = 0.0
            score: Any = 0.0
            for taken in range(windows * self.window, (windows + 1) * self.window):
                run, its_loss, its_score = self.inner_step(params, run, task, step, taken)
                loss, score = loss + its_loss / self.window, score + its_score / self.window
            return loss, (score, run)

        found = self.estimator.estimate_window(window, params, state["inner"] if windows else None, step)
        windows = 0 if windows + 1 == self.restart_every else windows + 1
        after = {"windows": windows, "inner": found.carried}
        return TaskResult(found.gradient, found.value, found.aux, after, found.metrics)


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
