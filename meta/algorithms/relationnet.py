"""Relation networks: a learned comparison of a query with each class. Sung et al. 2018, arXiv:1711.06025."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

import neo
from meta.feature_learner import FeatureLearner, Logits
from meta.learner import Step, TaskResult, seed_of
from meta.problems import Problem, constant
from neo.nn import MLP, Module
from neo.typing import PyTree

__all__ = ["RelationNet"]

LOSSES = ("mse", "problem")


class RelationNet(FeatureLearner):
    """Learn an embedding f, and a network g that says how much a query has to do with a class.

    r_k(x) = sigmoid(g(c_k, f(x))),  c_k = sum of f over the support examples of class k     (equation 1, section 3.1)
    minimise over (f, g)  mean over tasks of  the mean over queries and classes of (r_k(x) − [y = k])²   (equation 2)

    Logits are g, before the sigmoid. g is an MLP on both feature vectors, one behind the other; the paper's is one on
    feature maps, with two blocks of convolutions in front.

    Meta-parameters: {"params": the model's, "relation": g's}.

    Args:
        features: how many the model gives of an example of these tasks, ≥ 1.
        hidden: units of g's hidden layer, ≥ 1.
        loss: "mse", the paper's, which is reported as train/relation_loss beside the problem's loss of the logits; or
            "problem": that itself is what is descended, cross-entropy by default.
        model, problem: as meta.feature_learner.FeatureLearner has them.
    Raises: ValueError naming the argument; in adapt() where the model gives another number of features, and as
        FeatureLearner does.
    Cost: one forward and backward pass of support and queries; g runs queries · classes times.
    """

    def __init__(
        self,
        model: Module,
        *,
        features: int = 64,
        hidden: int = 64,
        loss: str = "mse",
        problem: Problem | None = None,
    ):
        for name, count in (("features", features), ("hidden", hidden)):
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"RelationNet: {name} must be an integer of 1 or more, got {count!r}")
        if loss not in LOSSES:
            raise ValueError(f"RelationNet: loss must be one of {', '.join(LOSSES)}; got {loss!r}")
        self.width, self.loss = features, loss
        self.relation = MLP(2 * features, hidden, 1)
        super().__init__(model, problem=problem)

    def further(self, seed: int, device: str | torch.device) -> dict[str, PyTree]:
        # By another seed than the model, or its weights would be made of the same draws.
        return {"relation": self.relation.init(seed=seed_of(seed, 0, 0), device=device)}

    def fit(self, features: Any, members: torch.Tensor, learned: Mapping[str, Any]) -> Logits:
        if features.shape[1] != self.width:
            raise ValueError(
                f"RelationNet: the model gives {features.shape[1]} features of an example, and algorithm.features is "
                f"{self.width}; set algorithm.features={features.shape[1]}."
            )
        classes = members @ features

        def logits(queries: Any) -> Any:
            shape = (len(queries), len(members), self.width)
            pairs = torch.cat([classes[None].expand(shape), queries[:, None].expand(shape)], 2)
            return self.relation(learned["relation"], pairs.flatten(0, 1)).reshape(shape[:2])

        return logits

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        if self.loss == "problem":
            return super().task_gradient(params, task, step)

        def relation_loss(params: PyTree) -> tuple[Any, Any]:
            logits = self.adapt(params, task.support, step)(task.query.x)
            related = F.one_hot(constant(task.query.y), logits.shape[1]).to(logits.dtype)
            return F.mse_loss(torch.sigmoid(logits), related), constant(logits)

        (value, logits), gradient = neo.value_and_grad(relation_loss, argnums=0, has_aux=True)(params)
        loss, score = self.problem.query_loss(lambda x: logits, task.query)
        return TaskResult(gradient, loss, score, metrics={"relation_loss": value})
