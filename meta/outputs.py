"""A model for fewer classes than it was built for."""

from __future__ import annotations

from typing import Any

from neo.nn import Lambda, Module, Sequential
from neo.typing import Params

__all__ = ["first_outputs"]


class FirstOutputs(Module):
    """The first `outputs` of a model's outputs; the others get no gradient and no share of a softmax."""

    def __init__(self, model: Module, outputs: int) -> None:
        self.model, self.outputs = model, outputs

    def init(self, seed: int = 0, **options: Any) -> Params:
        return self.model.init(seed=seed, **options)

    def __call__(self, params: Params, x: Any) -> Any:
        return self.model(params, x)[:, : self.outputs]


def first_outputs(model: Module, outputs: int) -> Module:
    """The model without the outputs behind the first `outputs`, with the same parameters."""
    if isinstance(model, Sequential):  # which some batch-norm policies need it to stay
        return Sequential([*model.layers, ("first", Lambda(lambda x: x[:, :outputs]))])
    return FirstOutputs(model, outputs)
