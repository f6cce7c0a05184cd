"""Which parameters are meant: patterns of their names, as a shell has them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from neo.nn import Linear, Module, Sequential

__all__ = ["HEAD", "expect_patterns", "head_of", "matching"]

HEAD = "head.*"  # what the last layer of Neo's own networks is called


def head_of(model: Module, given: Any) -> Any:
    """HEAD as the pattern of the last linear layer, where the model is a sequence of layers; else what is given."""
    if given != HEAD or not isinstance(model, Sequential):
        return given
    linear = [name for name, layer in model.layers if isinstance(layer, Linear)]
    return f"{linear[-1]}.*" if linear else given


def expect_patterns(owner: str, key: str, given: Any) -> tuple[str, ...]:
    """A pattern, or a sequence of patterns, as a tuple. Raises: ValueError for anything else, and for no pattern.

    owner, key: what the error names, as "ANIL" and "adapt".
    """
    patterns = (given,) if isinstance(given, str) else given
    if (
        not isinstance(patterns, Sequence)
        or not patterns
        or not all(isinstance(one, str) for one in patterns)
    ):
        raise ValueError(
            f'{owner}: {key}={given!r} must be a pattern of parameter names, or a list of one or more: "head.*", '
            '["head.*", "norm*.bias"], or "*" for all.'
        )
    return tuple(patterns)


def matching(
    owner: str, key: str, patterns: Sequence[str], names: Iterable[str], group: str = "algorithm"
) -> list[str]:
    """The names, in their order, that any of the patterns matches. group: of the configuration, where the key stands.

    Raises: ValueError naming every pattern that matches none of them, and the parameters nearest to it.
    """
    names = list(names)
    unmatched = [one for one in patterns if not any(fnmatchcase(name, one) for name in names)]
    if unmatched:
        listed = "; ".join(f"{one!r} matches no parameter{_nearest(one, names)}" for one in unmatched)
        raise ValueError(
            f"{owner}: in {group}.{key}, {listed}. The model's parameters: {_shortened(names)}. Say which of them are "
            f"meant, {group}.{key}='{names[-1]}' for the last."
            if names
            else f"{owner}: in {group}.{key}, {listed}, for the model has none that it could."
        )
    return [name for name in names if any(fnmatchcase(name, one) for one in patterns)]


def _nearest(pattern: str, names: Sequence[str]) -> str:
    """The nearest names, compared without the pattern's wildcards, up to as many dots as it has, or whole."""
    word = re.sub(r"[*?]", "", pattern).strip(".")
    depth = word.count(".") + 1
    starts = [".".join(name.split(".")[:depth]) for name in names]
    closest = difflib.get_close_matches(word, dict.fromkeys(starts), n=1, cutoff=0.5)
    near = [name for name, start in zip(names, starts, strict=True) if start in closest][:3]
    near = near or difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f" (nearest: {', '.join(near)})" if near else ""


def _shortened(names: Sequence[str], most: int = 20) -> str:
    """All names, or where they are many the first and the last ones."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most // 2])}, ..., {', '.join(names[-most // 2 :])} ({len(names)} in all)"
