"""Hyperparameters of the inner optimiser as meta-parameters: rates, momentum, weight decay."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from neo import LiteTensor, pytree
from neo.optim import Optimizer
from neo.typing import PyTree

__all__ = ["InnerHyperparameters", "a_step"]


class InnerHyperparameters:
    """What an inner optimiser is made of, some of its numbers being meta-parameters that begin at its own.

    The rate, "lr", becomes one for every parameter tensor and inner step (Antoniou et al. 2019, arXiv:1810.09502,
    section 4), any other number one for all. They are descended like any meta-parameter, and may leave the range in
    which a user could give them.

    Args:
        owner: the algorithm, named in errors.
        optimizer: of neo.optim.
        names: of its numeric arguments, as lr, momentum, weight_decay; at least one.
    Raises: ValueError for an optimiser that is not of neo.optim, and for what is no number of it.
    """

    def __init__(self, owner: str, optimizer: Optimizer, names: Sequence[str]) -> None:
        recipe = getattr(optimizer, "recipe", None)
        if recipe is None:
            raise ValueError(
                f"{owner}: inner_learned={list(names)} are numbers of an optimiser of neo.optim; got {optimizer!r}. "
                "Learn those of your own by a pytree of rates, as meta.MetaSGD does."
            )
        self.make, args, kwargs = recipe
        bound = inspect.signature(self.make).bind(*args, **kwargs)
        bound.apply_defaults()
        self.arguments = bound.arguments
        numbers = [name for name, value in self.arguments.items() if type(value) in (int, float)]
        for name in names:
            if name not in numbers:
                raise ValueError(
                    f"{owner}: inner_learned={list(names)}: {name!r} is no number of {optimizer!r}; choose from "
                    f"{', '.join(numbers)}."
                )
        self.names = tuple(names)

    def initial(self, adapting: PyTree, steps: int) -> dict[str, PyTree]:
        """The numbers to begin with, for parameters that adapt: lr like them, (steps,) for each; others ()."""
        like: Any = pytree.leaves(adapting)[0].data

        def repeated(value: float) -> Callable[[Any], LiteTensor]:
            return lambda leaf: LiteTensor(leaf.data.new_full((steps,), value))

        return {
            name: pytree.tree_map(repeated(self.arguments[name]), adapting)
            if name == "lr"
            else LiteTensor(like.new_full((), self.arguments[name]))
            for name in self.names
        }

    def __call__(self, numbers: Any) -> Optimizer:
        """The optimiser with these numbers; the last rates serve on after more steps than there are."""
        learned = {name: a_step(value) if name == "lr" else value for name, value in numbers.items()}
        made: Optimizer = self.make(**{**self.arguments, **learned})
        return made


def a_step(rates: PyTree) -> Callable[[int], PyTree]:
    """A schedule for neo.optim: the rates of an inner step, the last ones after more steps than there are."""
    leaves: list[Any]
    leaves, structure = pytree.flatten(rates)
    columns = [torch.unbind(leaf) for leaf in leaves]
    return lambda step: pytree.unflatten(structure, [rows[min(step, len(rows) - 1)] for rows in columns])
