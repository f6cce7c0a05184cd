"""In which numbers a run computes: precision=float32, float64 or bfloat16.

float64    Meta-parameters, tasks, adaptation, carried state and the optimiser's state are float64. Both begin at the
           bits of the float32 run: weights and tasks are drawn in float32 and widened, which is exact.
bfloat16   Convolutions and products are computed in bfloat16, as torch.autocast chooses them. All else stays float32:
           meta-parameters, adapted parameters and the optimiser's state, for bfloat16 has 8 significant bits, and an
           update of less than 1/256 of a weight would be lost; normalisation, softmax and losses, for their sums and
           logarithms would lose theirs; gradients, which have the dtype of their parameter; and tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from meta.learner import MetaLearner
from neo import LiteTensor, pytree
from neo.typing import PyTree
from tasks import TaskSampler

__all__ = ["PRECISIONS", "Precision", "SamplerOf", "cast", "computing", "precision_of"]


class Precision(NamedTuple):
    """dtype: of meta-parameters and tasks, None: as they are drawn. autocast: of convolutions and products, or None."""

    name: str
    dtype: torch.dtype | None = None
    autocast: torch.dtype | None = None

    def model_options(self, config: Any) -> dict[str, str]:
        """What a model that takes a dtype is given besides its configuration.

        Raises: ValueError for a model.dtype of another precision.
        """
        if self.name == "float32" or "dtype" not in config:
            return {}
        own, wanted = config.dtype, "float32" if self.dtype is None else self.name
        if own not in (None, wanted):
            raise ValueError(
                f"precision={self.name} needs the model's parameters in {wanted}, and model.dtype={own}; leave "
                "model.dtype out."
            )
        return {"dtype": wanted}


PRECISIONS = {
    "float32": Precision("float32"),
    "float64": Precision("float64", dtype=torch.float64),
    "bfloat16": Precision("bfloat16", autocast=torch.bfloat16),
}


def precision_of(name: Any) -> Precision:
    """Raises: ValueError for an unknown name."""
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision={name!r}; choose precision={', '.join(PRECISIONS)}.")
    return PRECISIONS[name]


def computing(learner: MetaLearner, params: PyTree) -> AbstractContextManager[Any]:
    """Where a learner works on a task: under torch.autocast, where learner.autocast names a dtype."""
    if learner.autocast is None:
        return nullcontext()
    leaves: list[Any] = pytree.leaves(params)
    kind = leaves[0].device.type if leaves else "cpu"
    # Without torch's cache of cast weights: Neo records a cast of its own for each use.
    return torch.autocast(kind, dtype=learner.autocast, cache_enabled=False)


class SamplerOf:
    """A sampler's tasks with floating-point tensors in another dtype; in all else the sampler that it was made of."""

    def __init__(self, drawn_by: TaskSampler, dtype: torch.dtype) -> None:
        self.drawn_by, self.dtype = drawn_by, dtype

    def sample(self, iteration: int, slots: int | Sequence[int]) -> Any:
        return cast(self.drawn_by.sample(iteration, slots), self.dtype)

    def __getattr__(self, name: str) -> Any:
        if name == "drawn_by":  # of an object that is being copied
            raise AttributeError(name)
        return getattr(self.drawn_by, name)


def cast(tree: Any, dtype: torch.dtype) -> Any:
    """A pytree with its floating-point tensors and LiteTensors in another dtype, in the memory format they have."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, LiteTensor):
            return LiteTensor(leaf.data.to(dtype)) if leaf.data.is_floating_point() else leaf
        return leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    return pytree.tree_map(one, tree)
