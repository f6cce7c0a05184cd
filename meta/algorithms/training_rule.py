"""What algorithms share that learn how to train, and not where to start: each task starts from weights drawn anew."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from meta.algorithms.maml import MAML
from meta.inner_loop import Iterates
from meta.learner import Step, seed_of
from neo import LiteTensor, pytree
from neo.nn import Module
from neo.typing import PyTree

__all__ = ["TrainingRule"]

STARTS = ("task", "update")


class TrainingRule(MAML):
    """A model is trained on the support set by a rule φ, from weights θ₀ that are drawn; φ is judged by the result.

    minimise over φ  mean over tasks and θ₀ of  L_query(θ_K),  θ₀, ..., θ_K by `inner_steps` steps of the rule φ

    Meta-parameters: φ alone. A subclass gives init, and iterates: how φ takes part in the inner loop.

    Args:
        starts: "task": θ₀ is another in every task, drawn from step.seed; "update": one for all tasks of a
            meta-update, another in the next, as batched=true needs. Evaluations draw it for every task.
        others: as MAML has them, with its estimators of the meta-gradient.
    """

    def __init__(self, model: Module, *, starts: str = "task", **options: Any) -> None:
        if starts not in STARTS:
            raise ValueError(
                f"{type(self).__name__}: starts must be one of {', '.join(STARTS)}, got {starts!r}"
            )
        super().__init__(model, **options)
        self.starts = starts

    @abstractmethod
    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        """φ to start from."""

    @abstractmethod
    def iterates(self, params: PyTree, support: Any, step: Step) -> Iterates:
        """The model's weights after 0, 1, ... steps of training by the rule `params`."""

    def start(self, params: PyTree, step: Step) -> Any:
        """θ₀, of the dtype and on the device of φ."""
        shared = self.starts == "update" and step.training
        seed = seed_of(0, step.iteration, 0) if shared else step.seed
        like: LiteTensor = pytree.leaves(params)[0]
        return self.model.init(seed=seed, dtype=like.dtype, device=like.device)
