"""From a model's output to a distribution over actions."""

from __future__ import annotations

from typing import Any

from torch.distributions import Categorical, Distribution, Independent, Normal

__all__ = ["categorical", "gaussian"]

# validate_args looks at every number, for which a GPU must wait and which neo.vmap cannot.


def categorical(prediction: Any) -> Distribution:
    """Over actions 0, 1, ...: softmax of logits (n, actions)."""
    return Categorical(logits=prediction, validate_args=False)


def gaussian(prediction: Any, *, std: float) -> Distribution:
    """Over vectors: independent normals around means (n, size), of one standard deviation.

    Raises: ValueError for a std that is not positive.
    """
    if not std > 0:
        raise ValueError(f"gaussian: std must be greater than 0, got {std}.")
    return Independent(Normal(prediction, std, validate_args=False), 1, validate_args=False)
