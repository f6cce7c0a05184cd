"""What an estimator decides, and those that only choose which inner gradients are constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import neo
from meta.learner import Step
from neo.typing import PyTree

__all__ = ["Descent", "Estimate", "Estimator", "FirstOrder", "Reverse", "Truncated", "Window"]

Objective = Callable[
    [PyTree], tuple[Any, Any]
]  # meta-parameters → (query loss after adaptation, what else of it)
Window = Callable[
    [PyTree, Any], tuple[Any, tuple[Any, PyTree]]
]  # (meta-parameters, an inner run so far; None: begin it) → (loss of its next steps, (what else, the run after them))


class Descent(Protocol):
    """An inner loop that is about to run: θ₀, ..., θ_steps."""

    start: PyTree  # θ₀, of what adapts
    steps: int

    def after(self, state: Any, first: int, count: int) -> Any:
        """The state (θ and the optimiser's) after `count` steps more, `first` having been taken; None: at the start."""

    def gradient(self, params: PyTree, step: int) -> PyTree:
        """Of the loss that the loop goes down, at inner step `step`."""


@dataclass(frozen=True)
class Estimate:
    """What an estimator says of one task's objective at the meta-parameters.

    carried: of a window, what the next one goes on from.
    """

    value: Any
    aux: Any
    gradient: PyTree
    metrics: Mapping[str, Any] = field(default_factory=dict)
    carried: PyTree = None


@dataclass(frozen=True)
class Estimator:
    """How a meta-gradient is had: which derivatives of the inner loop it goes through, and what is kept for them.

    A subclass says what differs from Reverse. Settings are fields of a frozen dataclass, which a configuration sets as
    `algorithm.<name>_<field>`.
    """

    name: ClassVar[str] = "reverse"
    mode: ClassVar[str] = "reverse"
    """How an inner gradient is differentiated: neo.grad's mode."""

    repeats: ClassVar[bool] = False
    """Whether the model is run more often than adaptation and query ask for, so that nothing may count its runs."""

    def is_constant(self, step: int, steps: int) -> bool:
        """Whether the gradient of inner step `step` (from 0) of `steps` is a constant to the meta-gradient."""
        return False

    def inner_loss(self, loss: Callable[..., Any], start: PyTree) -> Callable[..., Any]:
        """What the inner loop goes down in place of `loss`, (params, ...) → scalar, from `start` on."""
        return loss

    def end(self, descent: Descent) -> PyTree:
        """θ after all steps, where nobody asks for those on the way."""
        return descent.after(None, 0, descent.steps)[0]

    def estimate(self, objective: Objective, params: PyTree, step: Step) -> Estimate:
        """The gradient of the objective by the meta-parameters; step.seed seeds what is drawn."""
        (value, aux), gradient = neo.value_and_grad(objective, argnums=0, has_aux=True)(params)
        return Estimate(value, aux, gradient)

    def carry(self, params: PyTree, run: PyTree) -> PyTree:
        """What is carried over outer steps of an inner run that goes on over them, at its beginning: the run."""
        return run

    def estimate_window(self, window: Window, params: PyTree, carried: PyTree | None, step: Step) -> Estimate:
        """estimate() of the next steps of such a run, what came before them being a constant.

        carried: what carry() or the last window gave; None: the run begins.
        """
        found = self.estimate(lambda params: window(params, carried), params, step)
        aux, run = found.aux
        return replace(found, aux=aux, carried=run)


@dataclass(frozen=True)
class Reverse(Estimator):
    """Exact: reverse mode through every inner step. Finn et al. 2017, arXiv:1703.03400, equation 1.

    Cost: about three gradients an inner step; memory for every inner step's forward and backward pass. Bias: none.
    """


@dataclass(frozen=True)
class FirstOrder(Estimator):
    """No second derivatives: the query gradient at the adapted parameters. Finn et al. 2017, section 5.2 (FOMAML).

    Cost: one gradient an inner step, whose memory goes at once. Bias: of the order of α times the loss's curvature, for
    every step.
    """

    name: ClassVar[str] = "first_order"

    def is_constant(self, step: int, steps: int) -> bool:
        return True


@dataclass(frozen=True)
class Truncated(Estimator):
    """Exact through the last `steps` inner steps, first order before them. Shaban et al. 2019, arXiv:1810.10667.

    Cost: time and memory of Reverse for `steps` inner steps, of FirstOrder for the others. Bias: as FirstOrder's, for
    those others.

    Args:
        steps: ≥ 0; 0 is FirstOrder, as many as there are inner steps Reverse.
    """

    steps: int

    name: ClassVar[str] = "truncated"

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 0:
            raise ValueError(f"Truncated: steps must be an integer of 0 or more, got {self.steps!r}")

    def is_constant(self, step: int, steps: int) -> bool:
        return step < steps - self.steps
