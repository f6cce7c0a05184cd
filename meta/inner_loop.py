"""The inner loop, written once: which parameters adapt, by which optimiser, in how many steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import neo
from meta.estimators import Estimator, FirstOrder, Reverse
from meta.inner_hyperparameters import InnerHyperparameters
from meta.patterns import expect_patterns, matching
from neo.optim import Optimizer
from neo.typing import PyTree

__all__ = ["InnerLoop", "Iterates", "adapt"]

Loss = Callable[[PyTree, Any], Any]  # (params, support) → scalar LiteTensor
Differentiate = Callable[
    [Callable[..., Any]], Callable[..., PyTree]
]  # loss → its gradient with respect to params


class InnerLoop:
    """Optimiser steps on the support loss, of all parameters or of some: a value that algorithms are made of.

    Args:
        owner: the algorithm, named in errors.
        steps: ≥ 0; the algorithm's own, where an evaluation asks for no other.
        lr: of SGD, α > 0, the same at every step; default_lr where None.
        optimizer: a neo.optim pair, in the place of sgd(lr) and without lr. Its state starts anew in every task.
        clip: the largest global norm of an inner gradient, > 0: longer ones are scaled down to it, differentiably.
            None: no limit.
        adapt: which parameters adapt: a pattern of their names as a shell has it, "head.*", or several, of which every
            one must match a parameter. "*": all, whatever pytree they are.
        freeze: which of those do not, all the same: patterns alike.
        learned: which numbers of the optimiser are meta-parameters, of which initial() gives the first: "lr" (one for
            every parameter tensor and step), "momentum", "weight_decay" ...; see meta.inner_hyperparameters.
    Raises: ValueError naming the argument.
    """

    def __init__(
        self,
        owner: str,
        *,
        steps: int,
        lr: float | None = None,
        optimizer: Optimizer | None = None,
        default_lr: float = 0.4,
        clip: float | None = None,
        adapt: Any = "*",
        freeze: Any = (),
        least_steps: int = 0,
        learned: str | Sequence[str] = (),
    ) -> None:
        if not isinstance(steps, int) or steps < least_steps:
            raise ValueError(f"{owner}: inner_steps must be {least_steps} or more, got {steps}")
        if optimizer is not None and lr is not None:
            raise ValueError(
                f"{owner}: inner_lr={lr} is the rate of SGD, and nothing would read it beside inner_optimizer, which "
                "has a rate of its own; give one of the two, and null for the other."
            )
        if lr is not None and not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"{owner}: inner_lr must be a finite number of 0 or more, got {lr}")
        if clip is not None and not clip > 0:
            raise ValueError(f"{owner}: inner_clip must be greater than 0, or null for no limit, got {clip}")
        self.owner, self.steps, self.clip = owner, steps, clip
        self.patterns = expect_patterns(owner, "adapt", adapt)
        self.frozen = () if freeze in ((), []) else expect_patterns(owner, "freeze", freeze)
        self._unclipped = optimizer or neo.optim.sgd(default_lr if lr is None else lr)
        self.optimizer = self._clipped(self._unclipped)
        names = [learned] if isinstance(learned, str) else learned
        self.learned = InnerHyperparameters(owner, self._unclipped, names) if names else None

    def iterates(
        self,
        loss: Callable[..., Any],
        params: PyTree,
        support: Any,
        *,
        steps: int | None = None,
        estimator: Estimator | None = None,
        optimizer: Optimizer | None = None,
        numbers: PyTree = None,
        transform: Callable[[PyTree], PyTree] | None = None,
        at_step: Callable[[int], dict[str, Any]] | None = None,
        differentiate: Differentiate | None = None,
    ) -> Iterates:
        """The parameters after 0, 1, ..., `steps` inner steps: one after the other, or the last alone.

        Args:
            loss: (params, support) → scalar; with at_step (params, support, inner steps taken) → scalar.
            steps: None for the loop's own.
            estimator: how an outer session differentiates the steps; exactly, by reverse mode, by default.
            optimizer: in the place of the loop's own, clipped as that: for rates that are meta-parameters.
            numbers: what initial() gave, or what has become of it, where some of the optimiser's numbers are learned.
            transform: gradient → what the optimiser takes for it, after clipping: for updates that are learned.
            at_step: inner steps taken → parameters by name that do not adapt, and are others after each step: for what
                is learned a step, as MAML++'s batch norm is.
            differentiate: loss → its gradient with respect to the first argument, in the place of neo.grad in the
                estimator's mode: for gradients that are estimated from values (meta.evolution).
        Cost: as adapt() has it.
        """
        steps = self.steps if steps is None else steps
        if self.learned is not None and optimizer is None:
            if numbers is None:
                raise ValueError(
                    f"{self.owner}: {', '.join(self.learned.names)} of its inner optimiser are learned, and iterates() "
                    "was not given them; pass numbers=, which begin at what initial(params) gives."
                )
            optimizer = self.learned(numbers)
        descent = self._clipped(_transformed(optimizer or self._unclipped, transform))
        estimator = estimator or Reverse()
        differentiate = differentiate or functools.partial(neo.grad, argnums=0, mode=estimator.mode)
        if self._all and at_step is None:
            plain = differentiate(estimator.inner_loss(loss, params))

            def gradient(params: PyTree, step: int, constant: bool) -> PyTree:
                return plain(params, support)

            return Iterates(gradient, params, descent, steps, estimator)
        told = (lambda params, support, step: loss(params, support)) if at_step is None else loss
        of_step = at_step or (lambda step: {})
        return self._of_some(differentiate, told, params, support, descent, steps, estimator, of_step)

    def initial(self, params: PyTree) -> dict[str, PyTree]:
        """The learned numbers of the optimiser to begin with, by name; {} where none is learned."""
        return {} if self.learned is None else self.learned.initial(self.adapting(params), max(self.steps, 1))

    def adapting(self, params: PyTree, besides: Collection[str] = ()) -> PyTree:
        """Those of the parameters that adapt: all, or by name those that a pattern matches, `besides` left out."""
        if self._all and not besides:
            return params
        named: Any = params
        names = matching(self.owner, "adapt", self.patterns, named)
        frozen = matching(self.owner, "freeze", self.frozen, named) if self.frozen else []
        if {*names} <= {*frozen}:
            raise ValueError(
                f"{self.owner}: algorithm.freeze={list(self.frozen)} matches every parameter that would adapt, and so "
                "nothing does; leave one of them out."
            )
        return {name: named[name] for name in names if name not in besides and name not in frozen}

    @property
    def _all(self) -> bool:
        return self.patterns == ("*",) and not self.frozen

    def _of_some(
        self,
        differentiate: Differentiate,
        loss: Callable[..., Any],
        params: Any,
        support: Any,
        optimizer: Optimizer,
        steps: int,
        estimator: Estimator,
        at_step: Callable[[int], dict[str, Any]],
    ) -> Iterates:
        stopped = neo.stop_gradient(params)

        def of_adapting(adapting: PyTree, support: Any, step: int, constant: bool) -> Any:
            # A constant gradient is a constant in the parameters that stay as much as in those that adapt.
            of_step = at_step(step)
            kept = {**stopped, **neo.stop_gradient(of_step)} if constant else {**params, **of_step}
            return loss({**kept, **adapting}, support, step)

        adapting: Any = self.adapting(params, besides=at_step(0))
        told = differentiate(estimator.inner_loss(of_adapting, adapting))

        def gradient(adapting: PyTree, step: int, constant: bool) -> PyTree:
            return told(adapting, support, step, constant)

        def all_params(adapted: Any, step: int) -> PyTree:
            return {**params, **at_step(step), **adapted}

        return Iterates(gradient, adapting, optimizer, steps, estimator, all_params)

    def _clipped(self, optimizer: Optimizer) -> Optimizer:
        return optimizer if self.clip is None else neo.optim.clipped(optimizer, norm=self.clip)


def _transformed(optimizer: Optimizer, transform: Callable[[PyTree], PyTree] | None) -> Optimizer:
    """optimizer, given transformed gradients."""
    if transform is None:
        return optimizer

    def step(params: PyTree, grads: PyTree, state: Any) -> tuple[PyTree, Any]:
        return optimizer.step(params, transform(grads), state)

    return Optimizer(optimizer.init, step)


def adapt(
    loss: Loss,
    params: PyTree,
    support: Any,
    *,
    optimizer: Optimizer,
    steps: int,
    first_order: bool = False,
) -> PyTree:
    """Run the inner loop: optimiser steps on the support loss.

    θ ← step(θ, ∇_θ L(θ; support)), `steps` times; with neo.optim.sgd(α) that is θ ← θ − α ∇L.
    Finn et al. 2017, arXiv:1703.03400, Algorithm 1, lines 5 and 6.

    Args:
        loss: (params, support) → scalar LiteTensor.
        params: any pytree of floating-point LiteTensors; left unchanged.
        support: what loss takes, constants: typically a Batch of x (n, *image) and y (n,).
        optimizer: a neo.optim pair; its state starts anew.
        steps: ≥ 0; 0 gives params back.
        first_order: treat ∇L as a constant (FOMAML); an outer gradient is then approximate, and cheaper.
    Returns: θ′ like params, still on the tapes of open sessions.
    Cost: time grows linearly with steps; so does memory while an outer session is open, which every step stays on the
        tape of; without one each step's tape is dropped at once.
    """
    if steps < 0:
        raise ValueError(f"adapt: steps must be 0 or more, got {steps}")
    gradient = neo.grad(loss, argnums=0)
    estimator = FirstOrder() if first_order else Reverse()
    return Iterates(lambda params, *_: gradient(params, support), params, optimizer, steps, estimator).end()


class Iterates:
    """θ₀, θ₁, ..., θ_steps of an inner loop, computed as they are asked for: all by iteration, or the last by end().

    What estimators see of it is a meta.estimators.Descent.

    Args:
        gradient: (θ, inner step, whether it is a constant to the meta-gradient) → gradient like θ.
        finish: (θₖ, k) → what an iterate is to the outside; None: θₖ.
    """

    def __init__(
        self,
        gradient: Callable[[PyTree, int, bool], PyTree],
        start: PyTree,
        optimizer: Optimizer,
        steps: int,
        estimator: Estimator,
        finish: Callable[[PyTree, int], PyTree] | None = None,
    ) -> None:
        self.start, self.steps = start, steps
        self._gradient, self._optimizer = gradient, optimizer
        self._estimator, self._finish = estimator, finish or (lambda params, step: params)

    def __iter__(self) -> Iterator[PyTree]:
        """Nothing is kept of a step but what open sessions keep."""
        state = self.after(None, 0, 0)
        yield self._finish(state[0], 0)
        for step in range(self.steps):
            state = self.after(state, step, 1)
            yield self._finish(state[0], step + 1)

    def end(self) -> PyTree:
        """After all steps, as the estimator goes there."""
        return self._finish(self._estimator.end(self), self.steps)

    def after(self, state: Any, first: int, count: int) -> Any:
        params, memory = (self.start, self._optimizer.init(self.start)) if state is None else state
        for step in range(first, first + count):
            constant = self._estimator.is_constant(step, self.steps)
            gradient = self._gradient(neo.stop_gradient(params) if constant else params, step, constant)
            if constant:  # also of what the loss itself holds: the start, where a term pulls towards it
                gradient = neo.stop_gradient(gradient)
            params, memory = self._optimizer.step(params, gradient, memory)
        return params, memory

    def gradient(self, params: PyTree, step: int) -> PyTree:
        return self._gradient(params, step, False)
