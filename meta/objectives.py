"""What a task asks for: a loss to descend in the inner and the outer loop, and a score to report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

__all__ = ["ACCURACY", "MSE", "Classification", "Metric", "Objective", "Regression", "metric_named"]


@dataclass(frozen=True)
class Metric:
    """What a score is: how it is called in files and pictures, how it is said, and which of two is the better one."""

    name: str  # train/<name>, val/<name> and test/<name> in metrics.jsonl and result.json
    label: str  # of an axis
    higher_is_better: bool = True
    fraction: bool = False  # of 1, said as a percentage
    is_loss: bool = False  # the query loss itself, which then needs no second curve

    def better(self, one: float, other: float) -> bool:
        """Whether one is strictly better than the other; NaN never is."""
        return one > other if self.higher_is_better else one < other

    @property
    def worst(self) -> float:
        return float("-inf") if self.higher_is_better else float("inf")

    def said(self, value: float, ci95: float | None = None, digits: int = 2) -> str:
        """ "92.11% ± 0.51", or "0.771 ± 0.032" for what is no fraction; digits: after the point of a percentage."""
        scale, unit = (100, "%") if self.fraction else (1, "")
        places = digits if self.fraction else digits + 1
        interval = "" if ci95 is None else f" ± {scale * ci95:.{places}f}"
        return f"{scale * value:.{places}f}{unit}{interval}"


ACCURACY = Metric("accuracy", "query accuracy", fraction=True)
MSE = Metric("mse", "query error, mean squared", higher_is_better=False, is_loss=True)


def metric_named(name: str) -> Metric:
    """The metric of a result.json; for a name that is none of ours, one that says numbers as they are."""
    return {metric.name: metric for metric in (ACCURACY, MSE)}.get(name, Metric(name, name))


class Objective(Protocol):
    """Losses of predictions; the score is what is reported beside the loss, per example."""

    metric: Metric  # what the mean of the scores is

    def support_loss(self, prediction: Any, y: torch.Tensor) -> Any:
        """Scalar: what the inner loop descends."""

    def query_loss(self, prediction: Any, y: torch.Tensor) -> Any:
        """Scalar: what the outer loop descends."""

    def score(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(examples,) float32; not differentiated."""


class Classification:
    """Cross-entropy on logits (n, ways) and labels (n,), int64 in [0, ways); the score is 1 where the argmax is right.

    Args:
        inner_reduction: of the support loss, and with it the meaning of the inner rate α. "mean" over the support
            set, as the usual PyTorch ports have it; "shots" divides the sum by the number of shots (so `ways` times
            the mean), as the MAML paper's code does: its published α, 0.4 (5-way) and 0.1 (20-way), is 2.0 with "mean".
    """

    metric = ACCURACY

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


class Regression:
    """Mean squared error of predictions (n, *target) and float targets alike; the score is an example's own error.

    Finn et al. 2017, arXiv:1703.03400, equation 2, with the mean over examples that their code takes.
    Raises: ValueError where shapes differ; broadcast, they would give a number that means nothing.
    """

    metric = MSE

    def support_loss(self, prediction: Any, y: torch.Tensor) -> Any:
        return self.query_loss(prediction, y)

    def query_loss(self, prediction: Any, y: torch.Tensor) -> Any:
        if prediction.shape != y.shape:
            raise ValueError(
                f"Regression: predictions must have the shape of the targets {tuple(y.shape)}, got "
                f"{tuple(prediction.shape)}; give the model as many outputs as a target has."
            )
        return F.mse_loss(prediction, y)

    def score(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((prediction - y) ** 2).flatten(1).mean(1)
