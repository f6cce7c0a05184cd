"""Whose statistics normalise a query when it is predicted: a choice of the evaluation that moves its numbers.

batch    The queries of a task are predicted together and normalised by their own mean and variance, so that each
         prediction sees the other queries ("transductive"). The MAML paper's code, and how the nets here are trained.
single   Each query is predicted in a batch of its own with the support set beside it, as the "no transduction" of
         Nichol, Achiam and Schulman 2018, arXiv:1803.02999, section 6.1.
support  Each batch norm takes the mean and variance that it has while the support set is predicted, as the MetaBN of
         Bronskill et al. 2020, arXiv:2003.03284, does when it tests.
frozen   By running statistics: those that a torch module was built with, model.buffers=frozen, or that an algorithm has
         gathered. Neo's own nets keep none, since a task is normalised by its own images.

The last three make a query's prediction independent of the other queries. Each is for every model, Neo's own, a torch
module, adapters around either, and for whatever an algorithm makes of it, but for `frozen` where there is nothing
frozen. The first two of model.buffers' words, batch and frozen, mean the same in adaptation and training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from meta.ensemble import EnsemblePredictor, mean_prediction
from meta.learner import Predictor
from meta.problems import constant
from neo.draws import replay
from neo.functions import chosen_statistics

__all__ = ["POLICIES", "Policy", "policy"]

Predict = Callable[[Any], Any]
Policy = Callable[
    [Predictor, Any], Predict
]  # (what adapted, support set) → query x → predictions, off every tape

ROUNDING = 1e-3  # of the largest prediction: by how much a query's may differ alone and among others


def _batch(predictor: Predictor, support: Any) -> Predict:
    def predict(x: Any) -> Any:
        with chosen_statistics.by_own():
            return constant(predictor(x))

    return predict


def _single(predictor: Predictor, support: Any) -> Predict:
    def predict(x: torch.Tensor) -> torch.Tensor:
        with chosen_statistics.by_own():
            together = [constant(predictor(torch.cat([support.x, one[None]])))[-1] for one in x]
        return torch.stack(together)

    return predict


def _support(predictor: Predictor, support: Any) -> Predict:
    def predict(x: Any) -> Any:
        statistics: list[tuple[torch.Tensor, torch.Tensor]] = []
        same = replay()  # random draws of the passes are those of the queries' own
        with same, chosen_statistics.recording(statistics):
            predictor(support.x)

        def by_support(x: Any) -> Any:
            with same, chosen_statistics.by_recorded(statistics):
                return constant(predictor(x))

        found = by_support(x)
        if len(x) > 1:
            _expect_independence(found[:1], by_support(x[:1]))
        return found

    return predict


def _frozen(predictor: Predictor, support: Any) -> Predict:
    def predict(x: Any) -> Any:
        try:
            with chosen_statistics.by_running():
                return constant(predictor(x))
        except chosen_statistics.NoRunningStatistics:
            raise ValueError(
                "evaluation.batch_norm='frozen' normalises by running statistics, and a batch norm of this model has "
                "none, for it was trained by those of each batch; choose 'batch', 'single' or 'support', or a torch "
                "module with model.buffers=frozen."
            ) from None

    return predict


POLICIES: dict[str, Policy] = {"batch": _batch, "single": _single, "support": _support, "frozen": _frozen}


def policy(name: str) -> Policy:
    """The way of predicting of that name, of each member of an ensemble. Raises: ValueError for a name that is none."""
    try:
        predict_by = POLICIES[name]
    except KeyError:
        raise ValueError(
            f"unknown evaluation.batch_norm={name!r}; expected 'batch' (the statistics of the "
            "queries at hand), 'single' (each query alone with the support set), 'support' (the support set's) or "
            "'frozen' (running ones, of a torch module with model.buffers=frozen)."
        ) from None

    def of_each_member(predictor: Predictor, support: Any) -> Predict:
        by_examples = predict_by in (_single, _support)
        if by_examples and not isinstance(getattr(support, "x", None), torch.Tensor):
            raise ValueError(
                f"evaluation.batch_norm={name!r} normalises by the examples of a support set, support.x, and a "
                f"{type(support).__name__} has none; expected 'batch'."
            )
        if not isinstance(predictor, EnsemblePredictor):
            return predict_by(predictor, support)
        members = [of_each_member(member, support) for member in predictor.members]
        return lambda x: mean_prediction([member(x) for member in members])

    return of_each_member


def _expect_independence(among_others: Any, alone: Any) -> None:
    """Raise ValueError where a query's prediction depends on the other queries all the same."""
    away, largest = (among_others - alone).abs().max(), among_others.abs().max()
    if bool(away > ROUNDING * largest):
        raise ValueError(
            "evaluation.batch_norm='support' makes every query's prediction independent of the others by way of batch "
            f"norms, and here one moves by {float(away):.3g} with them: this model sees the whole batch by other means "
            "than F.batch_norm. Expected 'single', which any predictor can, or 'batch'."
        )
