"""The inner loop, written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import neo
from neo.optim import Optimizer
from neo.typing import PyTree

__all__ = ["adapt", "chosen_optimizer", "last", "trajectory", "with_inner_clip"]


def adapt(
    loss: Callable[[PyTree, Any], Any],
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
    return last(trajectory(loss, params, support, optimizer=optimizer, steps=steps, first_order=first_order))


def trajectory(
    loss: Callable[[PyTree, Any], Any],
    params: PyTree,
    support: Any,
    *,
    optimizer: Optimizer,
    steps: int,
    first_order: bool = False,
) -> Iterator[PyTree]:
    """The parameters after 0, 1, ..., `steps` inner steps, one after the other: the way that adapt() goes, and its end.

    Arguments and cost as adapt() has them.
    """
    if steps < 0:
        raise ValueError(f"adapt: steps must be 0 or more, got {steps}")
    gradient = neo.grad(loss, argnums=0)
    state = optimizer.init(params)
    yield params
    for _ in range(steps):
        at = neo.stop_gradient(params) if first_order else params
        params, state = optimizer.step(params, gradient(at, support), state)
        yield params


def with_inner_clip(name: str, optimizer: Optimizer, clip: float | None) -> Optimizer:
    """optimizer, given gradients of global norm at most `clip`, differentiably; itself for None.

    Raises: ValueError for a clip that is not greater than 0.
    """
    if clip is None:
        return optimizer
    if not clip > 0:
        raise ValueError(f"{name}: inner_clip must be greater than 0, or null for no limit, got {clip}")
    return neo.optim.clipped(optimizer, norm=clip)


def last(trajectory: Iterator[PyTree]) -> PyTree:
    """Where a trajectory ends; what it passes on the way is let go at once."""
    for params in trajectory:  # noqa: B007
        pass
    return params


def chosen_optimizer(
    owner: str, inner_lr: float | None, inner_optimizer: Optimizer | None, default_lr: float
) -> Optimizer:
    """The optimiser given, or SGD at the rate given or by default. Raises: ValueError where both are given."""
    if inner_optimizer is None:
        return neo.optim.sgd(default_lr if inner_lr is None else inner_lr)
    if inner_lr is not None:
        raise ValueError(
            f"{owner}: inner_lr={inner_lr} is the rate of SGD, and nothing would read it beside inner_optimizer, which "
            "has a rate of its own; give one of the two."
        )
    return inner_optimizer
