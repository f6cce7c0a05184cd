"""Batch norm by the statistics of the batch at hand, and with ReLU and max pooling as one op."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.functions import chosen_statistics
from neo.functions.norm_relu_pool import batch_norm_relu, batch_norm_relu_max_pool
from neo.nn import init
from neo.nn.module import Module

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "BatchNormReLU"]


class BatchNorm2d(Module):
    """y = γ (x − μ) / √(σ² + ε) + β with the mean and variance of the batch at hand, in training and in test alike.

    That is MAML's batch norm: no running statistics exist, so that a task is normalised by its own images. It makes
    predictions depend on the other images of the batch (transduction), unless a block around the call chooses others
    (neo.functions.chosen_statistics). Ioffe and Szegedy 2015, arXiv:1502.03167.

    Args:
        scale: learn γ; False keeps it at 1, as the MAML paper's Omniglot network has it.
        eps: ε, in units of x².
    """

    def __init__(self, channels: int, scale: bool = True, eps: float = 1e-5):
        self.channels, self.scale, self.eps = channels, scale, eps

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        weights = {"weight": init.ones((self.channels,))} if self.scale else {}
        return {**weights, "bias": init.zeros((self.channels,))}

    def __call__(self, params: Any, x: Any) -> Any:
        return F.batch_norm(x, None, None, params.get("weight"), params["bias"], training=True, eps=self.eps)

    def by_statistics(self, params: Any, mean: Any, variance: Any, x: Any) -> Any:
        """x by a given mean and variance (channels,), running ones say."""
        return F.batch_norm(
            x, mean, variance, params.get("weight"), params["bias"], training=False, eps=self.eps
        )


class BatchNorm1d(BatchNorm2d):
    """BatchNorm2d for x (n, channels) or (n, channels, length): the statistics of the batch at hand, always."""


class BatchNorm3d(BatchNorm2d):
    """BatchNorm2d for x (n, channels, depth, height, width): the statistics of the batch at hand, always."""


class BatchNormReLU(BatchNorm2d):
    """BatchNorm2d, then max(·, 0), then, with `pool`, the largest of each pool x pool window: one fused op.

    Equal to BatchNorm2d, ReLU and MaxPool2d one after the other, in fewer passes over memory.
    """

    def __init__(self, channels: int, scale: bool = True, eps: float = 1e-5, pool: int | None = None):
        super().__init__(channels, scale, eps)
        self.pool = pool

    def __call__(self, params: Any, x: Any) -> Any:
        if chosen_statistics.chosen():
            return self._rectified(super().__call__(params, x))
        if self.pool is None:
            return batch_norm_relu(x, params.get("weight"), params["bias"], self.eps)
        return batch_norm_relu_max_pool(x, params.get("weight"), params["bias"], self.pool, self.eps)

    def by_statistics(self, params: Any, mean: Any, variance: Any, x: Any) -> Any:
        return self._rectified(super().by_statistics(params, mean, variance, x))

    def _rectified(self, x: Any) -> Any:
        y = torch.relu(x)
        return y if self.pool is None else F.max_pool2d(y, self.pool)
