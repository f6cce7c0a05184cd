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

from neo.nn import BatchNorm2d, Module, Sequential
from neo.typing import Params

__all__ = ["POLICIES", "Predict", "policy"]

# (model, adapted params, support x (n, *item), query x (m, *item)) → predictions (m, ...); constant, off every tape.
Predict = Callable[[Module, Params, torch.Tensor, torch.Tensor], torch.Tensor]


def _batch(model: Module, params: Params, support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    return _plain(model(params, query))


def _single(model: Module, params: Params, support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    together = (_plain(model(params, torch.cat([support, one[None]])))[-1] for one in query)
    return torch.stack(list(together))


def _support(model: Module, params: Params, support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    if not isinstance(model, Sequential):
        raise ValueError(
            f"evaluation.batch_norm='support' follows the support set through a sequence of layers, and "
            f"{type(model).__name__} is none (neo.nn.Sequential); expected 'single', which any model can, or 'batch'."
        )
    # The support set goes ahead through every layer, and leaves the statistics that the queries are normalised by.
    ahead: Any = support
    x: Any = query
    for layer, local in model.split(params):
        x = layer.by_statistics_of(local, ahead, x) if isinstance(layer, BatchNorm2d) else layer(local, x)
        ahead = layer(local, ahead)
    return _plain(x)


POLICIES: dict[str, Predict] = {"batch": _batch, "single": _single, "support": _support}


def policy(name: str) -> Predict:
    """The way of predicting of that name. Raises: ValueError for a name that is none."""
    try:
        return POLICIES[name]
    except KeyError:
        raise ValueError(
            f"evaluation.batch_norm={name!r} is no policy that there is; expected 'batch' (the statistics of the "
            "queries at hand), 'single' (each query alone with the support set) or 'support' (the support set's)."
        ) from None


def _plain(prediction: Any) -> torch.Tensor:
    return getattr(prediction, "data", prediction)
