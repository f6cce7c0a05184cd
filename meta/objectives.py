"""What a task asks for: a loss to descend in the inner and the outer loop, and a score to report."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F

__all__ = ["Classification", "Objective"]


class Objective(Protocol):
    """Losses of predictions; the score is what is reported beside the loss, per example."""

    def support_loss(self, prediction: Any, y: torch.Tensor) -> Any:
        """Scalar: what the inner loop descends."""

    def query_loss(self, prediction: Any, y: torch.Tensor) -> Any:
        """Scalar: what the outer loop descends."""

    def score(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(examples,) float32, higher is better; not differentiated."""


class Classification:
    """Cross-entropy on logits (n, ways) and labels (n,), int64 in [0, ways); the score is 1 where the argmax is right.

    Args:
        inner_reduction: of the support loss, and with it the meaning of the inner rate α. "mean" over the support
            set, as the usual PyTorch ports have it; "shots" divides the sum by the number of shots (so `ways` times
            the mean), as the MAML paper's code does: its published α, 0.4 (5-way) and 0.1 (20-way), is 2.0 with "mean".
    """

    def __init__(self, inner_reduction: str = "mean"):
        if inner_reduction not in ("mean", "shots"):
            raise ValueError(
                f"Classification: inner_reduction must be 'mean' or 'shots', got {inner_reduction!r}"
            )
        self.inner_reduction = inner_reduction

    def support_loss(self, prediction: Any, y: torch.Tensor) -> Any:
        loss = F.cross_entropy(prediction, y)
        return loss * prediction.shape[1] if self.inner_reduction == "shots" else loss

    def query_loss(self, prediction: Any, y: torch.Tensor) -> Any:
        return F.cross_entropy(prediction, y)

    def score(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (prediction.argmax(1) == y).to(torch.float32)
