"""Meta-SGD: MAML that learns its inner rates too. Li, Zhou, Chen and Li 2017, arXiv:1707.09835."""

from __future__ import annotations

import math
from typing import Any

import torch

import neo
from meta.algorithms.maml import MAML
from meta.inner_loop import Iterates
from meta.learner import Step
from neo import LiteTensor, pytree
from neo.nn import Module
from neo.typing import PyTree

__all__ = ["MetaSGD"]


class MetaSGD(MAML):
    """Learn an initialisation θ, and for every single parameter a rate α of either sign: a direction as well as a size.

    minimise over (θ, α)  mean over tasks of  L_query(θ′),  θ′ = θ − α ∘ ∇L_support(θ)    (equations 2 and 3)

    Meta-parameters: {"params": θ, "rates": α}, α like θ. The gradient for α needs first derivatives alone,
    −∇L_support(θ) ∘ ∇L_query(θ′) at one step; first_order drops second derivatives from that for θ.

    Args:
        inner_lr: every rate to begin with, finite; the paper draws each from [0.005, 0.1].
        inner_steps: the paper takes 1; with more, each step has the same rates.
        others: as MAML has them; all parameters adapt.
    Cost: twice the memory for meta-parameters and outer optimiser, about MAML's time.
    """

    def __init__(self, model: Module, *, inner_lr: float = 0.4, **options: Any):
        for name in ("inner_optimizer", "inner_learned", "adapt", "freeze"):
            if options.get(name) not in (None, "*", (), []):
                raise ValueError(
                    f"MetaSGD: its inner optimiser is SGD at learned rates, one for each parameter; leave {name} out"
                )
        if not math.isfinite(inner_lr):
            raise ValueError(f"MetaSGD: inner_lr must be a finite number, got {inner_lr}")
        super().__init__(model, **options)
        self.inner_lr = inner_lr

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        params: PyTree = self.model.init(seed=seed, device=device)
        rates = pytree.tree_map(lambda leaf: LiteTensor(torch.full_like(leaf.data, self.inner_lr)), params)
        return {"params": params, "rates": rates}

    def iterates(self, params: PyTree, support: Any, step: Step, **options: Any) -> Iterates:
        both: Any = params
        return super().iterates(params, support, step, optimizer=neo.optim.sgd(both["rates"]), **options)

    def weights(self, params: PyTree) -> PyTree:
        both: Any = params
        return both["params"]
