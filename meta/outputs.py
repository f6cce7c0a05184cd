"""A classifier on tasks of fewer classes than it was built for."""

from __future__ import annotations

from typing import Any

from meta.problems import Classification
from meta.trained import Trained
from neo.nn import Lambda, Module, Sequential
from neo.typing import Params
from tasks import TaskSampler, VariedSampler

__all__ = ["first_outputs", "outputs_to_look_at"]


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
    if isinstance(model, Sequential):  # which running statistics need it to stay
        return Sequential([*model.layers, ("first", Lambda(lambda x: x[:, :outputs]))])
    return FirstOutputs(model, outputs)


def outputs_to_look_at(trained: Trained, sampler: TaskSampler) -> int | None:
    """As many of a classifier's outputs as the sampler's tasks have ways; None for all, and for what is no classifier.

    Of tasks of varied ways, all: the model of a run has as many as the most.

    Raises: ValueError where it has fewer.
    """
    drawn_by = getattr(sampler, "drawn_by", sampler)  # of meta.precision.SamplerOf
    if not isinstance(trained.problem, Classification) or isinstance(drawn_by, VariedSampler):
        return None
    task = sampler.sample(0, 1)[0]
    # A support set need not have an example of every class.
    ways = getattr(sampler, "ways", None) or int(task.support.y.max()) + 1
    outputs = trained.adapt(task.support, 0)(task.support.x).shape[1]
    if ways > outputs:
        raise ValueError(
            f"ways={ways} is more than the {outputs} classes that the run's model tells apart; choose ways from 2 to "
            f"{outputs}, or train one with task.ways={ways}."
        )
    return None if ways == outputs else ways
