"""Which support example belongs to which class, for algorithms that compare classes instead of fitting a head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from meta.learner import Unsuited
from meta.problems import constant

__all__ = ["class_members", "expect_class_numbers", "expect_labels"]


def class_members(owner: str, labels: torch.Tensor) -> torch.Tensor:
    """(classes, examples) of 1 where the example is of the class and 0 elsewhere.

    Args:
        owner: the algorithm, named in errors.
        labels: (examples,) integers ≥ 0, in any order; classes are 0 to the highest of them.
    Raises: ValueError for labels that are no class numbers (Unsuited), and for a class without an example.
    """
    labels = constant(labels)
    _expect_numbers(owner, labels)
    try:
        least, most = (int(value) for value in labels.aminmax())
    except RuntimeError as error:
        raise ValueError(
            f"{owner}: the number of classes is read from support.y, which cannot be read here; leave out "
            "batched=true, trainer.capture=true and neo.vmap."
        ) from error
    if least < 0:
        raise ValueError(f"{owner}: support.y must be class numbers of 0 or more, got {least}.")
    members = F.one_hot(labels.long(), most + 1).T
    present = members.any(1)
    if not bool(present.all()):
        missing = (~present).nonzero().flatten().tolist()
        raise ValueError(
            f"{owner}: class {', '.join(map(str, missing))} has no support example, and nothing to be told by; labels "
            f"must be 0 to {most}, each at least once. Take more shots."
        )
    return members


def expect_labels(owner: str, examples: Any) -> None:
    """Raise Unsuited, in the name of an algorithm, for a set that is not of examples x, each with its y."""
    if not (hasattr(examples, "x") and hasattr(examples, "y")):
        raise Unsuited(
            owner,
            f"it learns from examples with labels, support.x and support.y; got {type(examples).__name__}",
        )


def expect_class_numbers(owner: str, examples: Any) -> None:
    """Raise Unsuited, in the name of an algorithm, for a set that is not of examples x with a class number y each."""
    expect_labels(owner, examples)
    _expect_numbers(owner, constant(examples.y))


def _expect_numbers(owner: str, labels: torch.Tensor) -> None:
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype is torch.bool:
        raise Unsuited(
            owner,
            "support.y must be class numbers, (examples,) of integers; got "
            f"{tuple(labels.shape)} {labels.dtype}",
        )
