"""What an algorithm carries from step to step: checked, averaged over tasks, given back as it was."""

from __future__ import annotations

from typing import Any

import torch

from neo import LiteTensor, pytree
from neo.typing import PyTree

__all__ = ["Carried"]

NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float64}


class Carried:
    """The form of a learner's state, taken from the one that it begins with.

    Leaves are tensors, LiteTensors and Python numbers. On the way through a step they are a list of torch tensors,
    which can be averaged, sent to other ranks, and stacked.

    Args:
        owner: the learner's name, for errors.
        state: what init_state gave, or a checkpoint held.
    Raises: TypeError naming a leaf of another kind.
    """

    def __init__(self, owner: str, state: PyTree) -> None:
        self.owner = owner
        leaves: list[Any]
        leaves, self.structure = pytree.flatten(state)
        self.like = leaves
        for leaf, name in zip(leaves, self._names(), strict=True):
            if not isinstance(leaf, (torch.Tensor, LiteTensor, bool, int, float)):
                raise TypeError(
                    f"{owner}: the state's leaf {name} is a {type(leaf).__name__}; a state is kept in checkpoints and "
                    "averaged over tasks, so its leaves must be tensors or numbers. Keep settings on the learner."
                )

    def encode(self, state: PyTree) -> list[torch.Tensor]:
        """A state of this form as torch tensors. Raises: TypeError or ValueError naming the leaf that differs."""
        leaves: list[Any]
        leaves, structure = pytree.flatten(state)
        if structure != self.structure:
            raise TypeError(
                f"{self.owner}.task_gradient gave a state of another structure than init_state: expected "
                f"{self.structure}, got {structure}."
            )
        names = self._names()
        return [
            self._encoded(leaf, like, name) for leaf, like, name in zip(leaves, self.like, names, strict=True)
        ]

    def decode(self, tensors: list[torch.Tensor]) -> PyTree:
        """The state that encode() was given, or the mean of several."""
        leaves: list[Any] = []
        for tensor, like in zip(tensors, self.like, strict=True):
            if isinstance(like, LiteTensor):
                leaves.append(LiteTensor(tensor))
            else:
                leaves.append(tensor if isinstance(like, torch.Tensor) else type(like)(tensor.item()))
        return pytree.unflatten(self.structure, leaves)

    def expect_same(self, one: torch.Tensor, other: torch.Tensor, place: int) -> None:
        """Raise ValueError unless two tasks agree on a leaf that has no mean. Cost: waits for the device."""
        if not torch.equal(one, other):
            raise ValueError(
                f"{self.owner}: the state's leaf {self._names()[place]} is {other.dtype} and differs between tasks, as "
                f"{one.flatten()[:4].tolist()} and {other.flatten()[:4].tolist()}; only floating-point leaves are "
                "averaged. Give every task the same, or make it floating-point."
            )

    def _encoded(self, leaf: Any, like: Any, name: str) -> torch.Tensor:
        if isinstance(like, (torch.Tensor, LiteTensor)):
            if not isinstance(leaf, (torch.Tensor, LiteTensor)):
                raise TypeError(
                    f"{self.owner}.task_gradient: the state's leaf {name} must be a tensor of shape "
                    f"{tuple(like.shape)}, as init_state has it; got {type(leaf).__name__}."
                )
            if leaf.shape != like.shape or leaf.dtype != like.dtype:
                raise ValueError(
                    f"{self.owner}.task_gradient: the state's leaf {name} must be {tuple(like.shape)} {like.dtype}, as "
                    f"init_state has it; got {tuple(leaf.shape)} {leaf.dtype}."
                )
            return leaf.data.detach() if isinstance(leaf, LiteTensor) else leaf.detach()
        # A number may come back as a tensor without dims: counting with tensors is nobody's mistake.
        if isinstance(leaf, (torch.Tensor, LiteTensor)) and leaf.ndim == 0:
            tensor = leaf.data if isinstance(leaf, LiteTensor) else leaf
            return tensor.detach().to("cpu", NUMBERS[type(like)])
        if not isinstance(leaf, (bool, int, float)) or (
            isinstance(leaf, float) and not isinstance(like, float)
        ):
            raise TypeError(
                f"{self.owner}.task_gradient: the state's leaf {name} must be a {type(like).__name__}, as init_state "
                f"has it; got {leaf!r}."
            )
        return torch.tensor(leaf, dtype=NUMBERS[type(like)], device="cpu")

    def _names(self) -> list[str]:
        return [".".join(map(str, path)) or "itself" for path in self.structure.paths()]
