"""A problem small enough to run the loop on in milliseconds: a learner of one vector, and tasks that pull on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

import neo
from meta import MetaGradient, MetaLearner
from neo.typing import Params
from tasks import Batch, Task

SIZE = 3


class TargetSampler:
    """Tasks with a target vector each: a pure function of (iteration, slot)."""

    def sample(self, iteration: int, slots: int | Sequence[int]) -> Task:
        numbers = torch.tensor(list(range(slots)) if isinstance(slots, int) else list(slots))
        y = torch.sin(torch.arange(SIZE) + numbers[:, None] * 3.0 + iteration * 7.0)[..., None]
        batch = Batch(torch.zeros_like(y), y)
        return Task(batch, batch)


class Pull(MetaLearner):
    """Mean over tasks of ½ |θ − target|², whose gradient is θ − mean target. Nothing is adapted."""

    def __init__(self, spoil: Callable[[int, torch.Tensor], torch.Tensor] = lambda call, loss: loss) -> None:
        self.spoil, self.calls = spoil, 0

    def init(self, seed: int, device: str | torch.device = "cpu") -> Params:
        return {"theta": neo.LiteTensor(torch.full((SIZE,), float(seed)))}

    def adapt(self, params: Params, support: Batch, steps: int | None = None) -> Params:
        return params

    def meta_gradient(self, params: Params, batch: Task) -> MetaGradient:
        self.calls += 1
        targets = batch.query.y[..., 0]

        def loss(params: Params) -> neo.LiteTensor:
            difference = params["theta"] - targets
            return (difference * difference).sum() * (0.5 / len(targets))

        gradient = neo.grad(loss, argnums=0)(params)
        losses = 0.5 * ((params["theta"].data - targets) ** 2).sum(1)
        return MetaGradient(gradient, self.spoil(self.calls, losses), torch.exp(-losses))
