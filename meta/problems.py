"""What a task asks for: a loss to descend in the inner and the outer loop, and a score to report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from neo import LiteTensor
from tasks import Batch
from tasks.task import IGNORED

__all__ = [
    "ACCURACY",
    "F1",
    "LABEL_ACCURACY",
    "MEAN_IOU",
    "MSE",
    "OWN_METRICS",
    "RETURN",
    "Classification",
    "Metric",
    "MultiLabel",
    "PixelClassification",
    "Problem",
    "Regression",
    "Supervised",
    "constant",
    "metric_of",
]

Predict = Callable[[Any], Any]
LARGE = 1e5  # scores that are no fractions are said in three figures from here on


@dataclass(frozen=True)
class Metric:
    """What a score is: how it is called in files and pictures, how it is said, and which of two is the better one.

    Raises: ValueError where higher_is_better is left out: a search that guessed would look for the worst.
    """

    name: str  # train/<name>, val/<name> and test/<name> in metrics.jsonl and result.json
    label: str  # of an axis
    higher_is_better: bool | None = None  # must be given
    fraction: bool = False  # of 1, said as a percentage
    is_loss: bool = False  # the query loss itself, which then needs no second curve

    def __post_init__(self) -> None:
        if not isinstance(self.higher_is_better, bool):
            raise ValueError(
                f"Metric: is more {self.name!r} better or worse? Say Metric({self.name!r}, {self.label!r}, "
                f"higher_is_better=True), or False for an error; got {self.higher_is_better!r}."
            )

    def better(self, one: float, other: float) -> bool:
        """Whether one is strictly better than the other; NaN never is."""
        return one > other if self.higher_is_better else one < other

    @property
    def worst(self) -> float:
        return float("-inf") if self.higher_is_better else float("inf")

    def format(self, value: float, ci95: float | None = None, digits: int = 2) -> str:
        """ "92.11% ± 0.51", or "0.771 ± 0.032" for what is no fraction; digits: after the point of a percentage.

        What is no fraction and large, as an error that has exploded, is said in three figures: "2.77e+14 ± 2.83e+14".
        """
        if not self.fraction and abs(value) >= LARGE:
            return f"{value:.3g}" + ("" if ci95 is None else f" ± {ci95:.3g}")
        scale, unit = (100, "%") if self.fraction else (1, "")
        places = digits if self.fraction else digits + 1
        interval = "" if ci95 is None else f" ± {scale * ci95:.{places}f}"
        return f"{scale * value:.{places}f}{unit}{interval}"


ACCURACY = Metric("accuracy", "query accuracy", higher_is_better=True, fraction=True)
MSE = Metric("mse", "query error, mean squared", higher_is_better=False, is_loss=True)
RETURN = Metric("return", "mean return of the query episodes", higher_is_better=True)
LABEL_ACCURACY = Metric(
    "label_accuracy", "labels of a query that are right", higher_is_better=True, fraction=True
)
F1 = Metric("f1", "F1 of a query's labels", higher_is_better=True, fraction=True)
MEAN_IOU = Metric(
    "mean_iou", "intersection over union, mean of classes", higher_is_better=True, fraction=True
)
OWN_METRICS = {metric.name: metric for metric in (ACCURACY, MSE, RETURN, LABEL_ACCURACY, F1, MEAN_IOU)}


def metric_of(about: Mapping[str, Any]) -> Metric:
    """The metric of a result.json or of results' header: entries "metric", a name, and "higher_is_better".

    Raises: ValueError for a metric that is not Neo's own, and whose direction is not in `about`.
    """
    name = about["metric"]
    return OWN_METRICS.get(name) or Metric(name, name, higher_is_better=about.get("higher_is_better"))


class Problem(ABC):
    """What is done with a task's sets: what the inner loop descends, what the outer loop descends, what is reported.

    `predict` is any callable x -> prediction: a model with its parameters, or what MetaLearner.adapt gives. Which part
    of a set it is given, and what the prediction is held against, is the problem's own business: a task's support and
    query are any pytrees.
    """

    metric: Metric  # what the mean of the scores is

    @abstractmethod
    def support_loss(self, predict: Predict, support: Any) -> Any:
        """Scalar: what the inner loop descends."""

    @abstractmethod
    def query_loss(self, predict: Predict, query: Any) -> tuple[Any, Any]:
        """Scalar loss, which the outer loop descends, and scalar mean score, a constant; both of one prediction."""


class Supervised(Problem):
    """Sets of examples with a target each: batch.x, batch.y. A subclass says what one prediction is worth.

    loss and score take predictions and targets of a whole set, as a loss function of torch's does.
    """

    def support_loss(self, predict: Predict, support: Batch) -> Any:
        return self.inner_loss(predict(support.x), support.y)

    def query_loss(self, predict: Predict, query: Batch) -> tuple[Any, torch.Tensor]:
        prediction = predict(query.x)
        return self.loss(prediction, query.y), self.score(constant(prediction), query.y).mean()

    def inner_loss(self, prediction: Any, y: torch.Tensor) -> Any:
        """Scalar: what the inner loop descends; the loss, where a subclass does not say otherwise."""
        return self.loss(prediction, y)

    @abstractmethod
    def loss(self, prediction: Any, y: torch.Tensor) -> Any:
        """Scalar: what the outer loop descends."""

    @abstractmethod
    def score(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(examples,) float32, whose mean is reported, or () of the whole set; not differentiated."""


class Classification(Supervised):
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

    def inner_loss(self, prediction: Any, y: torch.Tensor) -> Any:
        loss = self.loss(prediction, y)
        return loss * prediction.shape[1] if self.inner_reduction == "shots" else loss

    def loss(self, prediction: Any, y: torch.Tensor) -> Any:
        try:
            return F.cross_entropy(prediction, y)
        except IndexError as error:
            raise ValueError(
                f"Classification: a label is {int(y.max())}, and predictions are of {prediction.shape[1]} classes; a "
                "model must have an output for each class, and an algorithm that compares classes a support example."
            ) from error

    def score(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (prediction.argmax(1) == y).to(torch.float32)


class Regression(Supervised):
    """Mean squared error of predictions (n, *target) and float targets alike; the score is an example's own error.

    Finn et al. 2017, arXiv:1703.03400, equation 2, with the mean over examples that their code takes.
    Raises: ValueError where shapes differ; broadcast, they would give a number that means nothing.
    """

    metric = MSE

    def loss(self, prediction: Any, y: torch.Tensor) -> Any:
        if prediction.shape != y.shape:
            raise ValueError(
                f"Regression: predictions must have the shape of the targets {tuple(y.shape)}, got "
                f"{tuple(prediction.shape)}; give the model as many outputs as a target has."
            )
        return F.mse_loss(prediction, y)

    def score(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((prediction - y) ** 2).flatten(1).mean(1)


class MultiLabel(Supervised):
    """Sigmoid cross-entropy of logits (n, labels) and targets alike, 0 or 1 in float: mean over examples and labels.

    Args:
        score: of each example, where a label is predicted if its logit is above 0. "accuracy": the share of labels that
            are right, of labels that are rare high without learning anything; "f1": 2 |P ∩ Y| / (|P| + |Y|) of the
            predicted labels P and the true ones Y, 1 where both are empty.
    Raises: ValueError for another score, and where shapes differ.
    """

    def __init__(self, score: str = "f1"):
        if score not in ("accuracy", "f1"):
            raise ValueError(f"MultiLabel: score must be 'accuracy' or 'f1', got {score!r}")
        self.metric = F1 if score == "f1" else LABEL_ACCURACY

    def loss(self, prediction: Any, y: torch.Tensor) -> Any:
        if prediction.shape != y.shape:
            raise ValueError(
                f"MultiLabel: logits must have the shape of the targets {tuple(y.shape)}, got "
                f"{tuple(prediction.shape)}; give the model an output for each label."
            )
        return F.binary_cross_entropy_with_logits(prediction, y)

    def score(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        predicted, true = prediction > 0, y > 0.5
        if self.metric is LABEL_ACCURACY:
            return (predicted == true).to(torch.float32).mean(1)
        both, either = (predicted & true).sum(1), predicted.sum(1) + true.sum(1)
        return torch.where(either > 0, 2 * both / either.clamp(min=1), 1.0).to(torch.float32)


class PixelClassification(Supervised):
    """Cross-entropy on logits (n, classes, height, width) and labels (n, height, width), mean over all pixels.

    Pixels whose label is tasks.task.IGNORED count neither there nor in the score.

    The score is of a whole set: the mean over classes of |P ∩ Y| / |P ∪ Y|, where P are the pixels taken for a class
    and Y those that are of it, in all images together; classes that are in neither do not count. Shaban et al. 2017,
    arXiv:1709.03410, section 5, of each task.
    """

    metric = MEAN_IOU

    def loss(self, prediction: Any, y: torch.Tensor) -> Any:
        if prediction.ndim != 4 or prediction.shape[2:] != y.shape[1:]:
            raise ValueError(
                f"PixelClassification: logits must be (n, classes, height, width) beside labels {tuple(y.shape)}, got "
                f"{tuple(prediction.shape)}; the model must give as many pixels as it takes."
            )
        return F.cross_entropy(prediction, y)

    def score(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        taken = torch.where(y == IGNORED, IGNORED, prediction.argmax(1))
        classes = [(taken == label, y == label) for label in range(prediction.shape[1])]
        both = torch.stack([(one & other).sum() for one, other in classes])
        either = torch.stack([(one | other).sum() for one, other in classes])
        return (both / either.clamp(min=1)).sum() / (either > 0).sum()


def constant(tensor: Any) -> Any:
    """The torch tensor behind a LiteTensor, a constant to every session; a torch tensor as it is."""
    return tensor.data if isinstance(tensor, LiteTensor) else tensor
