"""Estimators of the meta-gradient: which derivatives of the inner loop it goes through.

An inner step is θₖ₊₁ = θₖ − α gₖ, gₖ = ∇L_support(θₖ). The exact meta-gradient differentiates every gₖ; an
approximation treats some of them as constants, and an inner step is then the identity plus a constant to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["ESTIMATORS", "Estimator", "FirstOrder", "Reverse", "Truncated", "estimator_named"]


class Estimator(Protocol):
    """A choice of which inner gradients are constants to the meta-gradient."""

    def is_constant(self, step: int, steps: int) -> bool:
        """Whether the gradient of inner step `step` (from 0) of `steps` is a constant."""


@dataclass(frozen=True)
class Reverse:
    """Exact: reverse mode through every inner step. Finn et al. 2017, arXiv:1703.03400, equation 1.

    Cost: about three gradients an inner step; memory for every inner step's forward and backward pass. Bias: none.
    """

    def is_constant(self, step: int, steps: int) -> bool:
        return False


@dataclass(frozen=True)
class FirstOrder:
    """No second derivatives: the query gradient at the adapted parameters. Finn et al. 2017, section 5.2 (FOMAML).

    Cost: one gradient an inner step, whose memory goes at once. Bias: of the order of α times the loss's curvature, for
    every step.
    """

    def is_constant(self, step: int, steps: int) -> bool:
        return True


@dataclass(frozen=True)
class Truncated:
    """Exact through the last `steps` inner steps, first order before them. Shaban et al. 2019, arXiv:1810.10667.

    Cost: time and memory of Reverse for `steps` inner steps, of FirstOrder for the others. Bias: as FirstOrder's, for
    those others.

    Args:
        steps: ≥ 0; 0 is FirstOrder, as many as there are inner steps Reverse.
    """

    steps: int

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 0:
            raise ValueError(f"Truncated: steps must be an integer of 0 or more, got {self.steps!r}")

    def is_constant(self, step: int, steps: int) -> bool:
        return step < steps - self.steps


ESTIMATORS = ("reverse", "first_order", "truncated")


def estimator_named(
    owner: str, meta_gradient: str | Estimator, first_order: bool = False, truncated_steps: int | None = None
) -> Estimator:
    """The estimator that an algorithm's arguments ask for.

    Args:
        meta_gradient: a name among ESTIMATORS, or an estimator itself.
        first_order: True is meta_gradient="first_order", said otherwise.
        truncated_steps: of "truncated", which needs it.
    Raises: ValueError for a name that is none, and for arguments of which one says what another contradicts.
    """
    if not isinstance(meta_gradient, str):
        if first_order or truncated_steps is not None:
            raise ValueError(
                f"{owner}: meta_gradient={meta_gradient!r} is an estimator with settings of its own; leave first_order "
                "and truncated_steps out."
            )
        return meta_gradient
    if meta_gradient not in ESTIMATORS:
        raise ValueError(
            f"{owner}: meta_gradient must be one of {', '.join(ESTIMATORS)}, or an estimator (meta.estimators); got "
            f"{meta_gradient!r}"
        )
    if first_order and meta_gradient == "truncated":
        raise ValueError(
            f"{owner}: first_order=True and meta_gradient='truncated' contradict each other; leave one out."
        )
    if (meta_gradient == "truncated") != (truncated_steps is not None):
        raise ValueError(
            f"{owner}: truncated_steps={truncated_steps} with meta_gradient={meta_gradient!r}; it is how many of the "
            "last inner steps meta_gradient='truncated' goes through exactly, and nothing else reads it."
        )
    if truncated_steps is not None:
        return Truncated(truncated_steps)
    return FirstOrder() if first_order or meta_gradient == "first_order" else Reverse()
