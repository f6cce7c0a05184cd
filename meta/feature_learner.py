"""What algorithms have in common that learn from a task by one computation on its features, without inner steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch

import neo
from meta.class_members import class_members, expect_labels
from meta.learner import MetaLearner, Predictor, Step, TaskResult
from meta.problems import Classification, Problem
from neo import LiteTensor
from neo.nn import Module
from neo.typing import PyTree

__all__ = ["FeatureLearner"]

Logits = Callable[[Any], Any]  # features of queries (queries, features) → logits (queries, classes)


class FeatureLearner(MetaLearner):
    """A model whose outputs are features, and `fit`: what makes logits of them, given those of the support set.

    A task may have any number of classes, another one in testing than in training, and unequal numbers of examples.

    Meta-parameters: the model's params; where there is more to learn, {"params": those, name: ...}.

    Args:
        model: its outputs, flattened, are the features: a net without a linear head, as neo.nn.Conv4(ways=None) is.
            With batch norm by the images at hand, support and queries are normalised each by their own.
        problem: losses and score of logits; cross-entropy by default. Its support loss is not used.
        learned: scalars that are meta-parameters, name → what it begins at; each is reported as train/<name>.
    Raises: ValueError in adapt() where support labels are no class numbers, a class up to the highest of them has no
        example, or an evaluation asks for inner steps.
    Cost: the number of classes is read from the labels, so that neither batched=true nor trainer.capture=true can be
        used.
    """

    def __init__(
        self, model: Module, *, problem: Problem | None = None, learned: Mapping[str, float] | None = None
    ) -> None:
        self.model, self.problem = model, problem or Classification()
        self.learned = dict(learned or {})

    @abstractmethod
    def fit(self, features: Any, members: torch.Tensor, learned: Mapping[str, Any]) -> Logits:
        """Learn from a support set.

        Args:
            features: (examples, features).
            members: (classes, examples) of 1 where the example is of the class and 0 elsewhere, like features.
            learned: what else is among the meta-parameters, by name.
        """

    def further(self, seed: int, device: str | torch.device) -> dict[str, PyTree]:
        """What is learned besides the model: the scalars, unless a subclass has more."""
        return {name: LiteTensor(torch.tensor(value, device=device)) for name, value in self.learned.items()}

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        params: PyTree = self.model.init(seed=seed, device=device)
        further = self.further(seed, device)
        return {"params": params, **further} if further else params

    def adapt(self, params: PyTree, support: Any, step: Step) -> Predictor:
        owner = type(self).__name__
        if step.inner_steps:
            raise ValueError(
                f"{owner}: it learns from a task by one computation, and takes no inner steps; got "
                f"inner_steps={step.inner_steps}. Leave evaluation.inner_steps at null."
            )
        expect_labels(owner, support)
        both: Any = params
        further = {name: leaf for name, leaf in both.items() if name != "params"} if "params" in both else {}
        weights = both["params"] if further else both
        members = class_members(owner, support.y)
        features = self.features(weights, support.x)
        logits = self.fit(features, members.to(features.dtype), further)
        return Predictor(lambda x: logits(self.features(weights, x)))

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        def query_loss(params: PyTree) -> tuple[Any, Any]:
            return self.problem.query_loss(self.adapt(params, task.support, step), task.query)

        (loss, score), gradient = neo.value_and_grad(query_loss, argnums=0, has_aux=True)(params)
        both: Any = params
        return TaskResult(gradient, loss, score, metrics={name: both[name] for name in self.learned})

    def features(self, params: PyTree, x: Any) -> Any:
        """(examples, features)."""
        return self.model(params, x).flatten(1)
