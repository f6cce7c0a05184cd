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


class TrainingRule(MAML):
    """A model is trained on the support set by a rule φ, from weights θ₀ that are drawn; φ is judged by the result.

    minimise over φ  mean over tasks and θ₀ of  L_query(θ_K),  θ₀, ..., θ_K by `inner_steps` steps of the rule φ

    Meta-parameters: φ alone. A subclass gives init, and iterates: how φ takes part in the inner loop.

    Args:
        shared_start: True: all tasks of a meta-update start from one θ₀, those of the next from another, as
            batched=true needs. False, and in evaluations: each from its own, drawn from step.seed.
        others: as MAML has them, with its estimators of the meta-gradient.
    """

    def __init__(self, model: Module, *, shared_start: bool = False, **options: Any) -> None:
        super().__init__(model, **options)
        self.shared_start = shared_start

    @abstractmethod
    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        """φ to start from."""

    @abstractmethod
    def iterates(self, params: PyTree, support: Any, step: Step, **options: Any) -> Iterates:
        """The model's weights after 0, 1, ... steps of training by the rule `params`; options as MAML has them."""

    def start(self, params: PyTree, step: Step) -> Any:
        """θ₀, of the dtype and on the device of φ."""
        seed = seed_of(0, step.iteration, 0) if self.shared_start and step.training else step.seed
        like: LiteTensor = pytree.leaves(params)[0]
        return self.model.init(seed=seed, dtype=like.dtype, device=like.device)
