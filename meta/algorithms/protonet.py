"""Prototypical networks: the nearest class mean in a learned embedding. Snell et al. 2017, arXiv:1703.05175."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

import neo
from meta.learner import MetaLearner, Predictor, Step, TaskResult
from meta.problems import Classification, Problem, constant
from neo import LiteTensor
from neo.nn import Module
from neo.typing import PyTree

__all__ = ["ProtoNet", "class_members"]

SCALES = {"euclidean": 1.0, "cosine": 10.0}  # of the logits, where none is given


class ProtoNet(MetaLearner):
    """Learn an embedding f in which a class is the mean of its support examples.

    c_k = mean of f(x) over the support examples x of class k                                 (equation 1)
    logits_k(x) = −τ ‖f(x) − c_k‖²                                                            (equation 2, τ = 1)
    minimise over f  mean over tasks of  the cross-entropy of the queries' logits             (Algorithm 1)

    With distance="cosine" logits_k(x) = τ cos(f(x), c_k), which lies in [−τ, τ]: τ must be well above 1.

    Nothing descends: there are no inner steps, and the predictor has no parameters of its own. A task may have any
    number of classes, another one in testing than in training, and unequal numbers of examples of each.

    Meta-parameters: the model's params; with learned_scale {"params": those, "scale": τ, a scalar}, and τ is reported
    as train/scale.

    Args:
        model: its outputs, flattened, are the features: a net without a linear head, as neo.nn.Conv4(ways=None) is.
            With batch norm by the images at hand, support and queries are normalised each by their own.
        distance: "euclidean" (squared; the paper's) or "cosine".
        scale: τ, finite; 1 for euclidean and 10 for cosine where None.
        learned_scale: τ is a meta-parameter, and `scale` what it begins at. Gidaris and Komodakis 2018,
            arXiv:1804.09458, for cosine.
        problem: losses and score of logits; cross-entropy by default. Its support loss is not used.
    Raises: ValueError naming the argument; in adapt() where support labels are no class numbers, a class up to the
        highest of them has no example, or an evaluation asks for inner steps.
    Cost: one forward and backward pass of support and queries; logits take queries · classes · features numbers. The
        number of classes is read from the labels, so that neither batched=true nor trainer.capture=true can be used.
    """

    def __init__(
        self,
        model: Module,
        *,
        distance: str = "euclidean",
        scale: float | None = None,
        learned_scale: bool = False,
        problem: Problem | None = None,
    ):
        if distance not in SCALES:
            raise ValueError(f"ProtoNet: distance must be one of {', '.join(SCALES)}; got {distance!r}")
        if scale is not None and not math.isfinite(scale):
            raise ValueError(f"ProtoNet: scale must be a finite number, got {scale}")
        self.model, self.distance = model, distance
        self.scale = SCALES[distance] if scale is None else float(scale)
        self.learned_scale = learned_scale
        self.problem = problem or Classification()

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        params: PyTree = self.model.init(seed=seed, device=device)
        if not self.learned_scale:
            return params
        return {"params": params, "scale": LiteTensor(torch.tensor(self.scale, device=device))}

    def adapt(self, params: PyTree, support: Any, step: Step) -> Predictor:
        if step.inner_steps:
            raise ValueError(
                f"ProtoNet: a prototype is a mean, and takes no inner steps; got inner_steps={step.inner_steps}. Leave "
                "evaluation.inner_steps at null."
            )
        scale = self.scale
        if self.learned_scale:
            params, scale = params["params"], params["scale"]
        members = class_members(support.y)
        features = self.features(params, support.x)
        prototypes = (members.to(features.dtype) / members.sum(1, keepdim=True)) @ features
        similarity = self._cosine if self.distance == "cosine" else self._minus_squared_distance
        return Predictor(lambda x: scale * similarity(self.features(params, x), prototypes))

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        def loss_by_prototypes(params: PyTree) -> tuple[Any, Any]:
            return self.problem.query_loss(self.adapt(params, task.support, step), task.query)

        (loss, score), gradient = neo.value_and_grad(loss_by_prototypes, argnums=0, has_aux=True)(params)
        return TaskResult(
            gradient, loss, score, metrics={"scale": params["scale"]} if self.learned_scale else {}
        )

    def features(self, params: PyTree, x: Any) -> Any:
        """(examples, features)."""
        return self.model(params, x).flatten(1)

    @staticmethod
    def _minus_squared_distance(features: Any, prototypes: Any) -> Any:
        # By differences: ‖f‖² − 2 f·c + ‖c‖² would take a matrix product, and lose what the squares have in common.
        return -((features[:, None] - prototypes) ** 2).sum(-1)

    @staticmethod
    def _cosine(features: Any, prototypes: Any) -> Any:
        return F.normalize(features, dim=1) @ F.normalize(prototypes, dim=1).T


def class_members(labels: torch.Tensor) -> torch.Tensor:
    """(classes, examples) of 1 where the example is of the class and 0 elsewhere.

    Args:
        labels: (examples,) integers ≥ 0, in any order; classes are 0 to the highest of them.
    Raises: ValueError for labels that are no class numbers, and for a class without an example.
    """
    labels = constant(labels)
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype is torch.bool:
        raise ValueError(
            "ProtoNet: support.y must be class numbers, (examples,) of integers; got "
            f"{tuple(labels.shape)} {labels.dtype}. For other targets take another algorithm."
        )
    try:
        least, most = (int(value) for value in labels.aminmax())
    except RuntimeError as error:
        raise ValueError(
            "ProtoNet: the number of classes is read from support.y, which cannot be read here; leave out "
            "batched=true, trainer.capture=true and neo.vmap."
        ) from error
    if least < 0:
        raise ValueError(f"ProtoNet: support.y must be class numbers of 0 or more, got {least}.")
    members = F.one_hot(labels.long(), most + 1).T
    present = members.any(1)
    if not bool(present.all()):
        missing = (~present).nonzero().flatten().tolist()
        raise ValueError(
            f"ProtoNet: class {', '.join(map(str, missing))} has no support example, and so no prototype; labels must "
            f"be 0 to {most}, each at least once."
        )
    return members
