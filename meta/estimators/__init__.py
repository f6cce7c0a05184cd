"""Estimators of the meta-gradient: which derivatives of the inner loop it goes through, and what it costs.

An inner step is θₖ₊₁ = θₖ − α gₖ, gₖ = ∇L_support(θₖ). The exact meta-gradient differentiates every gₖ, by reverse mode
(Reverse) or in the memory of the parameters alone (Mixed); an approximation treats some of them as constants
(FirstOrder, Truncated), differentiates the equation that the inner loop solves (Implicit), or takes values alone
(EvolutionStrategies). Compared on one problem in docs/meta-gradients.md.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from meta.estimators.base import Descent, Estimate, Estimator, FirstOrder, Reverse, Truncated
from meta.estimators.evolution import EvolutionStrategies
from meta.estimators.implicit import Implicit
from meta.estimators.mixed import Mixed

__all__ = [
    "ESTIMATORS",
    "Descent",
    "Estimate",
    "Estimator",
    "EvolutionStrategies",
    "FirstOrder",
    "Implicit",
    "Mixed",
    "Reverse",
    "Truncated",
    "estimator_named",
]

ESTIMATORS: dict[str, type[Estimator]] = {
    kind.name: kind for kind in (Reverse, Mixed, FirstOrder, Truncated, Implicit, EvolutionStrategies)
}


def estimator_named(
    owner: str, meta_gradient: str | Estimator, first_order: bool = False, **settings: Any
) -> Estimator:
    """The estimator that an algorithm's arguments ask for.

    Args:
        meta_gradient: a name among ESTIMATORS, or an estimator itself.
        first_order: True is meta_gradient="first_order", said otherwise.
        settings: of the estimators by name, truncated_steps=3 or implicit_strength=2.0; None: its default.
    Raises: ValueError for a name that is none, for arguments of which one says what another contradicts, and for a
        setting that nothing would read; TypeError for an unknown one.
    """
    known = {
        f"{name}_{field.name}": (name, field)
        for name, kind in ESTIMATORS.items()
        for field in dataclasses.fields(kind)
    }
    for key in settings:
        if key not in known:
            raise TypeError(f"{owner}: got an unexpected keyword argument {key!r}")
    given = {key: value for key, value in settings.items() if value is not None}
    if not isinstance(meta_gradient, str):
        if first_order or given:
            raise ValueError(
                f"{owner}: meta_gradient={meta_gradient!r} is an estimator with settings of its own; leave "
                f"{', '.join(given) or 'first_order'} out."
            )
        return meta_gradient
    if meta_gradient not in ESTIMATORS:
        raise ValueError(
            f"{owner}: meta_gradient must be one of {', '.join(ESTIMATORS)}, or an estimator (meta.estimators); got "
            f"{meta_gradient!r}"
        )
    if first_order and meta_gradient not in ("reverse", "first_order"):
        raise ValueError(
            f"{owner}: first_order=True and meta_gradient={meta_gradient!r} contradict each other; leave one out."
        )
    kind = FirstOrder if first_order else ESTIMATORS[meta_gradient]
    for key, value in given.items():
        if known[key][0] != kind.name:
            raise ValueError(
                f"{owner}: {key}={value} is of meta_gradient={known[key][0]!r}, and nothing would read it with "
                f"{kind.name!r}; leave it out."
            )
    mine = {known[key][1].name: value for key, value in given.items()}
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in mine:
            raise ValueError(f"{owner}: meta_gradient={kind.name!r} needs {kind.name}_{field.name}.")
    return kind(**mine)
