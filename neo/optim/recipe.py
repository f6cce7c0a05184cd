"""What an optimiser or a schedule was made by: so that a pair of closures can be pickled and copied."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from neo.optim.base import Optimizer

__all__ = ["remakeable"]

Factory = TypeVar("Factory", bound=Callable[..., Any])


def remakeable(factory: Factory) -> Factory:
    """A module-level factory of optimisers or schedules, whose products pickle and deepcopy as (factory, arguments).

    They do where the arguments do; an argument that is a lambda does not pickle.
    """

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        made = factory(*args, **kwargs)
        again: Any = _Optimizer(*made) if isinstance(made, Optimizer) else _Schedule(made)
        again.recipe = (make, args, kwargs)
        return again

    return cast(Factory, make)


class _Made:
    """By `make(*args, **kwargs)`; what optree has rebuilt has no recipe, and is a plain pair."""

    recipe: Any = None

    def __reduce__(self) -> Any:
        return (_remade, self.recipe) if self.recipe else super().__reduce__()

    def __repr__(self) -> str:
        if not self.recipe:
            return super().__repr__()
        make, args, kwargs = self.recipe
        given = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        return f"{make.__name__}({', '.join(given)})"


class _Optimizer(_Made, Optimizer):
    pass


class _Schedule(_Made):
    def __init__(self, schedule: Callable[[int], Any]):
        self.schedule = schedule

    def __call__(self, step: int) -> Any:
        return self.schedule(step)


def _remade(make: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    return make(*args, **kwargs)
