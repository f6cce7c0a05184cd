"""Whose statistics normalise a query when it is predicted: a choice of the evaluation that moves its numbers.

batch    The queries of a task are predicted together and normalised by their own mean and variance, so that each
         prediction sees the other queries ("transductive"). The MAML paper's code, and how the nets here are trained.
single   Each query is predicted in a batch of its own with the support set beside it, as the "no transduction" of
         Nichol, Achiam and Schulman 2018, arXiv:1803.02999, section 6.1. Works for every model.
support  Each batch norm takes mean and variance from the support set's activations alone, as the MetaBN of Bronskill et
         al. 2020, arXiv:2003.03284, does when it tests. Needs a model that is a sequence of layers.

The last two make a query's prediction independent of the other queries. Running statistics are not among them: the nets
here keep none, since a task is normalised by its own images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from meta.ensemble import EnsemblePredictor, mean_prediction
from meta.learner import ModelPredictor, Predictor
from meta.problems import constant
from neo.nn import BatchNorm2d, Sequential

__all__ = ["POLICIES", "Policy", "policy"]

Predict = Callable[[Any], Any]
Policy = Callable[
    [Predictor, Any], Predict
]  # (what adapted, support set) → query x → predictions, off every tape


def _batch(predictor: Predictor, support: Any) -> Predict:
    return lambda x: constant(predictor(x))


def _single(predictor: Predictor, support: Any) -> Predict:
    def predict(x: torch.Tensor) -> torch.Tensor:
        together = (constant(predictor(torch.cat([support.x, one[None]])))[-1] for one in x)
        return torch.stack(list(together))

    return predict


def _support(predictor: Predictor, support: Any) -> Predict:
    model = predictor.model if isinstance(predictor, ModelPredictor) else None
    if not isinstance(model, Sequential):
        kind = type(predictor if model is None else model).__name__
        raise ValueError(
            f"evaluation.batch_norm='support' follows the support set through a sequence of layers, and {kind} is none "
            "(neo.nn.Sequential); expected 'single', which any predictor can, or 'batch'."
        )

    def predict(x: Any) -> Any:
        # The support set goes ahead through every layer, and leaves the statistics that the queries are normalised by.
        ahead: Any = support.x
        for layer, local in model.split(predictor.params):
            x = layer.by_statistics_of(local, ahead, x) if isinstance(layer, BatchNorm2d) else layer(local, x)
            ahead = layer(local, ahead)
        return constant(x)

    return predict


POLICIES: dict[str, Policy] = {"batch": _batch, "single": _single, "support": _support}


def policy(name: str) -> Policy:
    """The way of predicting of that name, of each member of an ensemble. Raises: ValueError for a name that is none."""
    try:
        predict_by = POLICIES[name]
    except KeyError:
        raise ValueError(
            f"unknown evaluation.batch_norm={name!r}; expected 'batch' (the statistics of the "
            "queries at hand), 'single' (each query alone with the support set) or 'support' (the support set's)."
        ) from None

    def of_each_member(predictor: Predictor, support: Any) -> Predict:
        if predict_by is not _batch and not isinstance(getattr(support, "x", None), torch.Tensor):
            raise ValueError(
                f"evaluation.batch_norm={name!r} normalises by the examples of a support set, support.x, and a "
                f"{type(support).__name__} has none; expected 'batch'."
            )
        if not isinstance(predictor, EnsemblePredictor):
            return predict_by(predictor, support)
        members = [of_each_member(member, support) for member in predictor.members]
        return lambda x: mean_prediction([member(x) for member in members])

    return of_each_member
