"""MetaLearner: the few methods that an algorithm supplies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from meta.objectives import Objective
from meta.parallel import Workers
from neo.nn import Module
from neo.typing import Params
from tasks import Batch, Task

__all__ = ["MetaGradient", "MetaLearner"]


class MetaGradient(NamedTuple):
    """What one meta-batch says of the meta-parameters. Scalars stay on the device, so that nothing waits for them."""

    gradient: Params  # of the mean query loss, like the meta-parameters
    loss: torch.Tensor  # (meta_batch,) query loss of each task after adaptation, in nats
    score: torch.Tensor  # (meta_batch,) mean score over each task's queries: accuracy in [0, 1]


class MetaLearner(ABC):
    """How to adapt to a task, and how to learn to adapt. Holds settings, never parameters."""

    model: Module
    objective: Objective
    workers: Workers = Workers(None)  # how the tasks of a meta-batch are run; changes time, never the result

    def init(self, seed: int, device: str | torch.device = "cpu") -> Params:
        """The meta-parameters to start from: a pure function of seed."""
        return self.model.init(seed=seed, device=device)

    @abstractmethod
    def adapt(self, params: Params, support: Batch, steps: int | None = None) -> Params:
        """Meta-parameters and a support set → the parameters to predict with. steps: None for the algorithm's own."""

    @abstractmethod
    def meta_gradient(self, params: Params, batch: Task) -> MetaGradient:
        """Mean over the tasks of a meta-batch, and what is to be logged.

        Averaged by meta.averaging.mean, a run is bit for bit the same on any number of ranks (see meta.distributed);
        otherwise up to rounding.
        """
