"""Parameter groups: an optimiser, or hyperparameters, for each."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import optree

from neo import pytree
from neo.optim.base import Optimizer
from neo.optim.recipe import remakeable
from neo.typing import PyTree

__all__ = ["grouped"]


@remakeable
def grouped(groups: Mapping[str, Optimizer], labels: PyTree | None = None) -> Optimizer:
    """An optimiser of several, each for some of the parameters.

        grouped({"head.*": adam(1e-2), "*": adam(1e-3, weight_decay=0.1)})
        grouped({"fast": sgd(1.0), "slow": sgd(0.1)}, labels={"params": "slow", "rates": "fast"})

    groups: patterns of dotted names, as a shell has them, to optimisers; the first that matches has the parameter.
        With labels, any keys.
    labels: a pytree of keys of groups that is a prefix of the parameters: a key stands for all that is below it.
    State: {key: the state of its optimiser}, whose trees are dicts of the group's parameters by dotted name.
    Raises, at init: ValueError for a parameter without a group, a group without parameters, or labels that are no
        prefix of the parameters.
    """
    if not groups:
        raise ValueError("grouped: expected at least one group, got none")
    for key, optimizer in groups.items():
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"grouped: group {key!r} must be an optimiser, got {type(optimizer).__name__}")

    def init(params: PyTree) -> dict[str, Any]:
        leaves, spec = pytree.flatten(params)
        keys = _keys(groups, labels, spec, params)
        empty = [key for key in groups if key not in keys]
        if empty:
            raise ValueError(
                f"grouped: {', '.join(map(repr, empty))} has no parameter; the parameters are {', '.join(_names(spec))}"
            )
        parts = _split(keys, _names(spec), leaves)
        return {key: groups[key].init(part) for key, part in parts.items()}

    def step(params: PyTree, grads: PyTree, state: dict[str, Any]) -> tuple[PyTree, dict[str, Any]]:
        leaves, spec = pytree.flatten(params)
        names, keys = _names(spec), _keys(groups, labels, spec, params)
        parts, slopes = _split(keys, names, leaves), _split(keys, names, spec.flatten_up_to(grads))
        moved: dict[str, Any] = {}
        new_state: dict[str, Any] = {}
        for key, part in parts.items():
            new, new_state[key] = groups[key].step(part, slopes[key], state[key])
            moved |= new
        return pytree.unflatten(spec, [moved[name] for name in names]), new_state

    return Optimizer(init, step)


def _names(spec: optree.PyTreeSpec) -> list[str]:
    return [".".join(map(str, path)) for path in spec.paths()]


def _keys(groups: Mapping[str, Optimizer], labels: PyTree | None, spec: Any, params: PyTree) -> list[str]:
    """Of each parameter, the key of its group."""
    if labels is None:
        keys = [next((key for key in groups if fnmatchcase(name, key)), None) for name in _names(spec)]
    else:
        try:
            keys = optree.broadcast_prefix(labels, params, namespace=pytree.NAMESPACE)
        except ValueError as error:
            raise ValueError(f"grouped: labels are no prefix of the parameters: {error}") from None
    for name, key in zip(_names(spec), keys, strict=True):
        if key not in groups:
            said = "no pattern matches" if labels is None else f"{key!r} is the label, and no group, of"
            raise ValueError(
                f"grouped: {said} {name!r}; the groups are {', '.join(map(repr, groups))}"
                + (". Add '*' for all others." if labels is None else "")
            )
    return [str(key) for key in keys]


def _split(keys: list[str], names: list[str], leaves: list[Any]) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for key, name, leaf in zip(keys, names, leaves, strict=True):
        parts.setdefault(key, {})[name] = leaf
    return parts
