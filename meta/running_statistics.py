"""Running statistics of batch norm, a set for each number of inner steps: gathered in training, used in evaluation.

Antoniou, Edwards and Storkey 2019, arXiv:1810.09502, section 4 ("per-step batch normalization running statistics"):
what a layer sees changes with every inner step, so that one running mean over all of them fits none.

The algorithm's state is {"mean": {layer: (steps + 1, channels)}, "variance": the same}, zeros and ones to begin with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from meta.problems import constant
from neo.nn import BatchNorm2d, Module, Sequential
from neo.typing import PyTree

__all__ = ["Gathered", "Running", "initial", "norm_layers"]

Normalise = Callable[[str, BatchNorm2d, Any, Any], Any]  # (layer's name, layer, its params, x) → y


def norm_layers(owner: str, model: Module) -> dict[str, BatchNorm2d]:
    """The batch norms of a model by name. Raises: ValueError for a model that does not show its layers, or has none."""
    layers = model.layers if isinstance(model, Sequential) else []
    found = {name: layer for name, layer in layers if isinstance(layer, BatchNorm2d)}
    if not found:
        raise ValueError(
            f"{owner}: running_statistics follows the batch norms of a sequence of layers (neo.nn.Sequential), and "
            f"{type(model).__name__} has none to be seen; leave running_statistics out."
        )
    return found


def initial(layers: dict[str, BatchNorm2d], sets: int, like: torch.Tensor) -> PyTree:
    """The state before training: mean 0, variance 1. like: a parameter, whose dtype and device they have."""
    return {
        "mean": {name: like.new_zeros(sets, layer.channels) for name, layer in layers.items()},
        "variance": {name: like.new_ones(sets, layer.channels) for name, layer in layers.items()},
    }


class Gathered:
    """Training: each batch is normalised by its own statistics, which are remembered.

    Args:
        momentum: m in [0, 1]: running ← (1 − m) running + m batch, with the batch's unbiased variance, as torch has it.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.seen: dict[int, list[dict[str, tuple[torch.Tensor, torch.Tensor]]]] = {}

    def predict(self, model: Any, params: PyTree, x: Any, taken: int) -> Any:
        """model(params, x), the parameters being those after `taken` inner steps."""
        batch: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

        def normalise(name: str, layer: BatchNorm2d, local: Any, x: Any) -> Any:
            data = constant(x)
            batch[name] = torch.var_mean(data, dim=(0, *range(2, data.ndim)))
            return layer(local, x)

        y = _through(model, params, x, normalise)
        self.seen.setdefault(taken, []).append(batch)
        return y

    def updated(self, state: Any) -> PyTree:
        """The state after a task: each set moves towards the mean over its batches; one without any stays."""
        new: PyTree = {"mean": {}, "variance": {}}
        for name in state["mean"]:
            for key, place in (("variance", 0), ("mean", 1)):
                rows = list(state[key][name])
                for taken, batches in self.seen.items():
                    found = torch.stack([batch[name][place] for batch in batches]).mean(0)
                    rows[taken] = torch.lerp(rows[taken], found, self.momentum)
                new[key][name] = torch.stack(rows)
        return new


class Running:
    """Evaluation: each batch is normalised by the running statistics of its inner step, after more by the last ones."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def predict(self, model: Any, params: PyTree, x: Any, taken: int) -> Any:
        """model(params, x), the parameters being those after `taken` inner steps."""

        def normalise(name: str, layer: BatchNorm2d, local: Any, x: Any) -> Any:
            mean, variance = (self.state[key][name] for key in ("mean", "variance"))
            row = min(taken, len(mean) - 1)
            return layer.by_statistics(local, mean[row], variance[row], x)

        return _through(model, params, x, normalise)


def _through(model: Sequential, params: Any, x: Any, normalise: Normalise) -> Any:
    """model(params, x) layer by layer, with a batch norm of another's choice."""
    for (name, _), (layer, local) in zip(model.layers, model.split(params), strict=True):
        x = normalise(name, layer, local, x) if isinstance(layer, BatchNorm2d) else layer(local, x)
    return x
