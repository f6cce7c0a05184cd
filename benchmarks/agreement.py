"""Whether two contenders computed the same: nothing is timed before they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["Disagreement", "check", "difference", "relative_difference"]


class Disagreement(ValueError):
    """Two contenders gave different results for the same weights and tasks."""


def relative_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """‖ours − theirs‖ / ‖theirs‖, the Euclidean norms taken over all parameters at once, in float64.

    Not parameter by parameter: the gradient of a bias before batch norm is zero but for rounding.
    Args: arrays or CPU tensors by name. Returns: 0 where both are all zeros.
    Raises: KeyError if the names differ.
    """
    if ours.keys() != theirs.keys():
        raise KeyError(
            f"relative_difference: names must agree, differ in {sorted(ours.keys() ^ theirs.keys())}"
        )
    pairs = [(np.asarray(ours[name], np.float64), np.asarray(theirs[name], np.float64)) for name in theirs]
    difference = sum(np.square(a - b).sum() for a, b in pairs)
    norm = sum(np.square(b).sum() for _, b in pairs)
    return 0.0 if difference == 0 else float(np.sqrt(difference / norm))


def difference(result: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """The relative difference of the loss (if any) by itself and of all else together: the larger of the two."""
    parts = [[name for name in expected if name == "loss"], [name for name in expected if name != "loss"]]
    return max(
        (
            relative_difference(
                {name: result[name] for name in part}, {name: expected[name] for name in part}
            )
            for part in parts
            if part
        ),
        key=lambda found: np.inf if np.isnan(found) else found,
    )


def check(
    who: str, result: Mapping[str, Any], other: str, expected: Mapping[str, Any], tolerance: float
) -> float:
    """The difference of two results.

    Raises: Disagreement where names or shapes differ, or the difference is above tolerance (or not a number).
    """
    shapes, wanted = ({name: np.shape(value) for name, value in one.items()} for one in (result, expected))
    if shapes != wanted:
        odd = sorted(name for name in shapes | wanted if shapes.get(name) != wanted.get(name))
        raise Disagreement(
            f"{who} and {other} computed different things: "
            + "; ".join(f"{name}: {shapes.get(name, 'none')} and {wanted.get(name, 'none')}" for name in odd)
        )
    worst = difference(result, expected)
    if not worst <= tolerance:
        raise Disagreement(
            f"{who} and {other} disagree: relative difference {worst:.2e}, expected at most {tolerance:g}; "
            "nothing was timed."
        )
    return worst
