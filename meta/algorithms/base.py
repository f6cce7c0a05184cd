"""MetaLearner: the few methods that an algorithm supplies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from meta.averaging import mean
from meta.objectives import Classification, Objective
from meta.parallel import Workers
from neo.nn import Module
from neo.typing import Params, PyTree
from tasks import Batch, Task

__all__ = ["MetaGradient", "MetaLearner"]


class MetaGradient(NamedTuple):
    """What one meta-batch says of the meta-parameters. Scalars stay on the device, so that nothing waits for them."""

    gradient: (
        PyTree  # of the mean query loss, or what the outer optimiser takes for it; like the meta-parameters
    )
    loss: torch.Tensor  # (meta_batch,) query loss of each task after adaptation
    score: torch.Tensor  # (meta_batch,) mean score over each task's queries, say accuracy in [0, 1]

    @classmethod
    def of_tasks(cls, results: Iterable[tuple[PyTree, torch.Tensor, torch.Tensor]]) -> MetaGradient:
        """The mean of each task's (gradient, loss, score), taken one by one: few gradients are held at a time."""
        losses, scores = [], []

        def gradients() -> Iterator[PyTree]:
            for gradient, loss, score in results:
                losses.append(loss)
                scores.append(score)
                yield gradient

        average = mean(gradients())
        return cls(average, torch.stack(losses), torch.stack(scores))


class MetaLearner(ABC):
    """How to adapt to a task, and how to learn to adapt. Holds settings, never parameters.

    The meta-parameters are any pytree of floating-point LiteTensors; MAML's are the model's params.
    """

    model: Module
    objective: Objective = Classification()
    workers: Workers = Workers(None)  # how the tasks of a meta-batch are run; changes time, never the result

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "adapt" in vars(cls) and "trajectory" not in vars(cls):
            # One inherited from an algorithm that adapts otherwise would go that algorithm's way.
            cls.trajectory = MetaLearner.trajectory  # type: ignore[method-assign]

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        """The meta-parameters to start from: a pure function of seed."""
        return self.model.init(seed=seed, device=device)

    @abstractmethod
    def adapt(self, params: PyTree, support: Batch, steps: int | None = None) -> Params:
        """Meta-parameters and a support set → the model's params to predict with.

        steps: None for the algorithm's own.
        """

    def trajectory(self, params: PyTree, support: Batch, steps: int) -> Iterator[Params]:
        """The parameters to predict with after 0, 1, ..., `steps` inner steps.

        Cost: this one adapts anew for each number of steps; an algorithm whose steps follow one another yields them in
        one pass.
        """
        return (self.adapt(params, support, step) for step in range(steps + 1))

    @abstractmethod
    def meta_gradient(self, params: PyTree, batch: Task) -> MetaGradient:
        """Mean over the tasks of a meta-batch, and what is to be logged.

        Averaged by MetaGradient.of_tasks, a run is bit for bit the same on any number of ranks (see meta.distributed);
        otherwise up to rounding.
        """
