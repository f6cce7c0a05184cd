"""A problem small enough to run the loop on in milliseconds: a learner of one vector, and tasks that pull on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

import neo
from meta import MetaLearner, Predictor, Step, TaskResult
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
    """Mean over tasks of ½ |θ − target|², whose gradient is θ − mean target. Nothing is adapted.

    spoil: (step, loss) → loss.
    """

    def __init__(self, spoil: Callable[[Step, torch.Tensor], torch.Tensor] = lambda step, loss: loss) -> None:
        self.spoil = spoil

    def init(self, seed: int, device: str | torch.device = "cpu") -> Params:
        return {"theta": neo.LiteTensor(torch.full((SIZE,), float(seed)))}

    def adapt(self, params: Params, support: Batch, step: Step) -> Predictor:
        return Predictor(lambda x: params["theta"], params)

    def task_gradient(self, params: Params, task: Task, step: Step) -> TaskResult:
        target = task.query.y[..., 0]

        def half_square(params: Params) -> neo.LiteTensor:
            difference = params["theta"] - target
            return 0.5 * (difference * difference).sum()

        loss, gradient = neo.value_and_grad(half_square, argnums=0)(params)
        spoilt = self.spoil(step, loss.data)
        return TaskResult(gradient, spoilt, torch.exp(-spoilt))
