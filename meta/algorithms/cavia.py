"""Fast context adaptation: MAML in which a small vector adapts. Zintgraf et al. 2019, arXiv:1810.03642."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from meta.algorithms.maml import MAML
from meta.conditioned import CONTEXT, Conditioned
from neo.nn import Module
from neo.typing import PyTree

__all__ = ["CAVIA"]


class CAVIA(MAML):
    """Learn a model that tasks share, and a context φ by which few numbers tell it which task it is on.

    φ = 0;  φ ← φ − α ∇_φ L_support(φ, θ), `inner_steps` times                                  (equation 5)
    minimise over θ  mean over tasks of  L_query(φ, θ)                                          (equation 7)

    Meta-parameters: θ, the conditioned model's params; the context among them starts at zero in every task whatever it
    holds there, gets no gradient, and so stays at zero.

    Args:
        context: entries of φ, ≥ 1; see meta.conditioned.Conditioned for how they act on the model. None: the model has
            parameters of its own for it, which `adapt` matches.
        at: the layers that φ acts on: a pattern of their names, or several; None: norm2 of neo.nn.Conv4, linear0 of
            neo.nn.MLP.
        inner_lr: α; 1.0 where None, the paper's.
        inner_steps: the paper has 2 for images, 1 for sinusoids.
        adapt: which parameters are context: a pattern of their names, or several.
        others: as MAML has them.
    Raises: ValueError naming the argument; at init() and the first adaptation for patterns that match nothing.
    Cost: an inner step computes no gradient below the first layer that φ acts on, and none of any weight.
    """

    def __init__(
        self,
        model: Module,
        *,
        context: int | None = 100,
        at: str | Sequence[str] | None = None,
        inner_lr: float | None = None,
        inner_steps: int = 2,
        adapt: str | Sequence[str] = CONTEXT,
        **options: Any,
    ):
        if context is None and at is not None:
            raise ValueError(f"CAVIA: at={at!r} is where a context acts, and context is None; leave one out.")
        if inner_lr is None and options.get("inner_optimizer") is None:
            inner_lr = 1.0
        conditioned = model if context is None else Conditioned("CAVIA", model, context, at)
        super().__init__(conditioned, inner_lr=inner_lr, inner_steps=inner_steps, adapt=adapt, **options)

    def weights(self, params: PyTree) -> PyTree:
        named: Any = super().weights(params)
        contexts: Any = self.inner.adapting(named)
        return {**named, **{name: torch.zeros_like(leaf) for name, leaf in contexts.items()}}
