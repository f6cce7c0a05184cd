"""argnums: which positional arguments of a function are differentiated."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

__all__ = ["ArgNums", "checked", "positions"]

ArgNums = SupportsIndex | Sequence[SupportsIndex] | None
"""None: all of them; an integer (numpy's too), or several in a tuple, list or range."""


def checked(argnums: ArgNums, name: str) -> int | tuple[int, ...] | None:
    """argnums as an int, a tuple of ints, or None. Raises: TypeError for anything else; ValueError for an empty one."""
    if argnums is None or type(argnums) is int:
        return argnums
    whole = _integer(argnums)
    if whole is not None:
        return whole
    several = isinstance(argnums, tuple | list | range) or (
        isinstance(argnums, np.ndarray) and argnums.ndim == 1
    )
    each: Any = argnums if several else [None]
    numbers = [None if number is None else _integer(number) for number in each]
    if None in numbers:
        raise TypeError(
            f"{name}: argnums must be an integer, a tuple of integers, or None for all arguments; got {argnums!r}"
        )
    if not numbers:
        raise ValueError(
            f"{name}: argnums is empty and names no argument; give the positions of those to differentiate, or None "
            f"for all of them"
        )
    return tuple(number for number in numbers if number is not None)


def positions(argnums: int | tuple[int, ...] | None, count: int, name: str) -> Sequence[int]:
    """Checked argnums as positions from 0 on. Raises: TypeError beyond the arguments, ValueError for a repeated one."""
    if argnums is None:
        return range(count)
    if isinstance(argnums, int) and 0 <= argnums < count:
        return (argnums,)
    given = (argnums,) if isinstance(argnums, int) else argnums
    for position in given:
        if not -count <= position < count:
            raise TypeError(f"{name}: argnums names argument {position}, but {count} were given")
    found = [position % count for position in given]
    if len(set(found)) < len(found):
        raise ValueError(f"{name}: argnums names an argument twice: {tuple(given)}")
    return found


def _integer(value: Any) -> int | None:
    """What counts as an integer to Python's own indexing, True and False left out."""
    if (
        isinstance(value, bool)
        or getattr(value, "ndim", 0) != 0
        or str(getattr(value, "dtype", "")).endswith("bool")
    ):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
