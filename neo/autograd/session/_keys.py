"""Gradients keyed by tensor, as the output of a transform around: keyed by what its caller passed.

Inside fn each argument is a tensor of its own, which the caller never sees: a dict keyed by it would leave the
transform with keys that nobody can look up, dead ones of a batch under vmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neo.autograd.tensor import LiteTensor

__all__ = ["keyed_as_given"]

_CONTAINERS = frozenset((dict, list, tuple))
_TENSOR = frozenset((LiteTensor,))
_DEPTH = 4  # of containers looked into: keyed gradients stand at the top, or in a tuple beside a value


def keyed_as_given(tree: Any, inside: Sequence[Any], given: Sequence[Any]) -> Any:
    """`tree`, its dicts that are keyed by tensors of `inside` keyed by their counterparts in `given`.

    Other parts stay the objects that they are. A dict stays too where two of its keys would become one: their values
    would have to be added up, on a tape that is closed.
    """
    if isinstance(tree, LiteTensor) or not _has_keyed(tree, _DEPTH):
        return tree
    names = {
        within: outside
        for within, outside in zip(inside, given, strict=False)
        if isinstance(within, LiteTensor)
    }
    return _renamed(tree, names, _DEPTH)


def _has_keyed(tree: Any, depth: int) -> bool:
    """Sets look at the types, for every session with aux comes this way: half a µs for a dict of tensors."""
    kind = type(tree)
    if depth == 0 or kind not in _CONTAINERS:
        return False
    if kind is dict and not _TENSOR.isdisjoint(map(type, tree)):
        return True
    parts = tree.values() if kind is dict else tree
    if not _CONTAINERS.isdisjoint(map(type, parts)):
        for part in parts:
            if _has_keyed(part, depth - 1):
                return True
    return False


def _renamed(tree: Any, names: dict[LiteTensor, Any], depth: int) -> Any:
    kind = type(tree)
    if depth == 0 or kind not in _CONTAINERS:
        return tree
    old = list(tree.values() if kind is dict else tree)
    parts = [_renamed(part, names, depth - 1) for part in old]
    changed = any(part is not was for part, was in zip(parts, old, strict=True))
    if kind is not dict:
        return kind(parts) if changed else tree
    keys = [names.get(key, key) if isinstance(key, LiteTensor) else key for key in tree]
    changed = changed or any(key is not was for key, was in zip(keys, tree, strict=True))
    return dict(zip(keys, parts, strict=True)) if changed and len(set(keys)) == len(keys) else tree
