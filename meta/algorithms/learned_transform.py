"""What algorithms share that learn, beside an initialisation, how to transform its inner gradients."""

from __future__ import annotations

import functools
from abc import abstractmethod
from typing import Any, ClassVar

import torch

from meta.algorithms.maml import MAML
from meta.inner_loop import Iterates
from meta.learner import Step
from neo import LiteTensor, pytree
from neo.typing import PyTree

__all__ = ["LearnedTransform"]


class LearnedTransform(MAML):
    """MAML whose inner optimiser gets f(∇L_support(θ)), f a linear or affine map of each tensor that is learned, too.

    Meta-parameters: {"params": θ, part: f}, f like what adapts of θ, with a list of tensors in the place of each. A
    subclass names the part, and says for a tensor what its map begins at and what it does.
    """

    part: ClassVar[str]

    @abstractmethod
    def identity(self, leaf: Any) -> list[LiteTensor]:
        """The map of a parameter to begin with, which changes nothing."""

    @abstractmethod
    def transformed(self, leaf: Any, tensors: list[Any]) -> Any:
        """A gradient, after its map."""

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        params: PyTree = self.model.init(seed=seed, device=device)
        maps = pytree.tree_map(self.identity, self.inner.adapting(params))
        return self.with_numbers(params, **{self.part: maps})

    def iterates(self, params: PyTree, support: Any, step: Step, **options: Any) -> Iterates:
        both: Any = params
        transform = functools.partial(self._transform, both[self.part])
        return super().iterates(params, support, step, transform=transform, **options)

    def weights(self, params: PyTree) -> PyTree:
        both: Any = params
        return both["params"]

    def _transform(self, maps: PyTree, gradients: PyTree) -> PyTree:
        leaves: list[Any]
        leaves, structure = pytree.flatten(gradients)
        lists: list[Any] = structure.flatten_up_to(maps)
        found = [self.transformed(leaf, tensors) for leaf, tensors in zip(leaves, lists, strict=True)]
        return pytree.unflatten(structure, found)
