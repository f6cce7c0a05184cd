"""The inner loop, written once: which parameters adapt, by which optimiser, in how many steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import neo
from meta.estimators import Estimator, FirstOrder, Reverse
from meta.patterns import expect_patterns, matching
from neo.optim import Optimizer
from neo.typing import PyTree

__all__ = ["InnerLoop", "adapt", "last"]

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
        least_steps: int = 0,
    ) -> None:
        if not isinstance(steps, int) or steps < least_steps:
            raise ValueError(f"{owner}: inner_steps must be {least_steps} or more, got {steps}")
        if optimizer is not None and lr is not None:
            raise ValueError(
                f"{owner}: inner_lr={lr} is the rate of SGD, and nothing would read it beside inner_optimizer, which "
                "has a rate of its own; give one of the two."
            )
        if lr is not None and not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"{owner}: inner_lr must be a finite number of 0 or more, got {lr}")
        if clip is not None and not clip > 0:
            raise ValueError(f"{owner}: inner_clip must be greater than 0, or null for no limit, got {clip}")
        self.owner, self.steps, self.clip = owner, steps, clip
        self.patterns = expect_patterns(owner, "adapt", adapt)
        self.optimizer = self._clipped(optimizer or neo.optim.sgd(default_lr if lr is None else lr))

    def iterates(
        self,
        loss: Callable[..., Any],
        params: PyTree,
        support: Any,
        *,
        steps: int | None = None,
        estimator: Estimator | None = None,
        optimizer: Optimizer | None = None,
        at_step: Callable[[int], dict[str, Any]] | None = None,
        differentiate: Differentiate | None = None,
    ) -> Iterator[PyTree]:
        """The parameters after 0, 1, ..., `steps` inner steps, one after the other.

        Args:
            loss: (params, support) → scalar; with at_step (params, support, inner steps taken) → scalar.
            steps: None for the loop's own.
            estimator: which inner gradients are constants to an outer session; exact by default.
            optimizer: in the place of the loop's own, clipped as that: for rates that are meta-parameters.
            at_step: inner steps taken → parameters by name that do not adapt, and are others after each step: for what
                is learned a step, as MAML++'s batch norm is.
            differentiate: loss → its gradient with respect to the first argument, in the place of neo.grad: for
                gradients that are estimated from values (meta.evolution).
        Cost: as adapt() has it.
        """
        steps = self.steps if steps is None else steps
        descent = self.optimizer if optimizer is None else self._clipped(optimizer)
        estimator = estimator or Reverse()
        differentiate = differentiate or _exactly
        if self.patterns == ("*",) and at_step is None:
            return _iterates(differentiate(loss), params, support, descent, steps, estimator)
        told = (lambda params, support, step: loss(params, support)) if at_step is None else loss
        of_step = at_step or (lambda step: {})
        return self._of_some(differentiate, told, params, support, descent, steps, estimator, of_step)

    def adapting(self, params: PyTree, besides: Collection[str] = ()) -> PyTree:
        """Those of the parameters that adapt: all, or by name those that a pattern matches, `besides` left out."""
        if self.patterns == ("*",) and not besides:
            return params
        named: Any = params
        names = matching(self.owner, "adapt", self.patterns, named)
        return {name: named[name] for name in names if name not in besides}

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
    ) -> Iterator[PyTree]:
        stopped = neo.stop_gradient(params)

        def of_adapting(adapting: PyTree, support: Any, step: int, constant: bool) -> Any:
            # A constant gradient is a constant in the parameters that stay as much as in those that adapt.
            of_step = at_step(step)
            kept = {**stopped, **neo.stop_gradient(of_step)} if constant else {**params, **of_step}
            return loss({**kept, **adapting}, support, step)

        adapting = self.adapting(params, besides=at_step(0))
        gradient = differentiate(of_adapting)
        iterates = _iterates(gradient, adapting, support, optimizer, steps, estimator, tell=True)
        return ({**params, **at_step(step), **adapted} for step, adapted in enumerate(iterates))

    def _clipped(self, optimizer: Optimizer) -> Optimizer:
        return optimizer if self.clip is None else neo.optim.clipped(optimizer, norm=self.clip)


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
    return last(
        _iterates(gradient, params, support, optimizer, steps, FirstOrder() if first_order else Reverse())
    )


def _exactly(loss: Callable[..., Any]) -> Callable[..., PyTree]:
    return neo.grad(loss, argnums=0)


def _iterates(
    gradient: Callable[..., PyTree],
    params: PyTree,
    support: Any,
    optimizer: Optimizer,
    steps: int,
    estimator: Estimator,
    tell: bool = False,
) -> Iterator[PyTree]:
    """tell: gradient is told more: how many steps have been taken, and whether it is a constant in this step."""
    state = optimizer.init(params)
    yield params
    for step in range(steps):
        constant = estimator.is_constant(step, steps)
        at = neo.stop_gradient(params) if constant else params
        found = gradient(at, support, step, constant) if tell else gradient(at, support)
        params, state = optimizer.step(params, found, state)
        yield params


def last(iterates: Iterator[PyTree]) -> PyTree:
    """Where they end; what they pass on the way is let go at once."""
    for params in iterates:  # noqa: B007
        pass
    return params
