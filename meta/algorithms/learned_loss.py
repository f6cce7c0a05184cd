"""ML³: a loss that is learned. Bechtle et al. 2021, arXiv:1906.05374."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from meta.algorithms.training_rule import TrainingRule
from meta.inner_loop import Iterates
from meta.learner import Step
from neo.nn import ELU, Linear, Module, Sequential, Softplus
from neo.typing import PyTree
from tasks.task import IGNORED

__all__ = ["LearnedLoss"]


class LearnedLoss(TrainingRule):
    """Learn the loss that training goes down, so that what the problem asks for is low after a few steps of it.

    θ ← θ − α ∇_θ M_φ(f_θ(x), y), `inner_steps` times;  minimise over φ  L_query(θ)

    M_φ is the mean of a network over all entries of predictions and targets: it sees an entry of each, and gives a
    number above 0. Of classes, these are the log-probability of a class and 1 or 0 for whether it is the label. The
    problem's own loss is used in meta-training alone: a new task needs none.

    Meta-parameters: φ, "linear0.weight" and so on.

    Args:
        hidden: units in each of the network's two hidden layers, ≥ 1.
        inner_lr: α; the size of M_φ's gradient is learned, so that it sets a unit alone.
        others: as TrainingRule has them.
    """

    def __init__(self, model: Module, *, hidden: int = 40, inner_steps: int = 5, **options: Any) -> None:
        if not isinstance(hidden, int) or hidden < 1:
            raise ValueError(f"LearnedLoss: hidden must be an integer of 1 or more, got {hidden!r}")
        super().__init__(model, inner_steps=inner_steps, **options)
        self.network = Sequential(
            [
                *(("linear0", Linear(2, hidden)), ("elu0", ELU())),
                *(("linear1", Linear(hidden, hidden)), ("elu1", ELU())),
                *(("linear2", Linear(hidden, 1)), ("softplus", Softplus())),
            ]
        )

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        return self.network.init(seed=seed, device=device)

    def iterates(self, params: PyTree, support: Any, step: Step, **options: Any) -> Iterates:
        return self.inner.iterates(
            lambda weights, support: self.learned_loss(params, self.model(weights, support.x), support.y),
            self.start(params, step),
            support,
            steps=step.inner_steps,
            estimator=self.estimator,
            **options,
        )

    def learned_loss(self, params: PyTree, prediction: Any, y: torch.Tensor) -> Any:
        """M_φ: scalar, of predictions and targets alike (n, *target), or of logits (n, ways, *) and labels (n, *).

        Pixels whose label is tasks.task.IGNORED do not count.
        """
        counted = None
        if not y.dtype.is_floating_point:
            prediction = F.log_softmax(prediction, 1)
            if y.ndim > 1:
                counted = (y != IGNORED).unsqueeze(1).expand(prediction.shape).flatten()
                y = y.clamp(min=0)
            y = F.one_hot(y, prediction.shape[1]).movedim(-1, 1).to(prediction.dtype)
        losses = self.network(params, torch.stack([prediction.flatten(), y.flatten()], 1)).flatten()
        return losses.mean() if counted is None else (losses * counted).sum() / counted.sum()
