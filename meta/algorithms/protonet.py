"""Prototypical networks: the nearest class mean in a learned embedding. Snell et al. 2017, arXiv:1703.05175."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from meta.feature_learner import FeatureLearner, Logits
from meta.problems import Problem
from neo.nn import Module

__all__ = ["ProtoNet"]

SCALES = {"euclidean": 1.0, "cosine": 10.0}  # of the logits, where none is given


class ProtoNet(FeatureLearner):
    """Learn an embedding f in which a class is the mean of its support examples.

    c_k = mean of f(x) over the support examples x of class k                                 (equation 1)
    logits_k(x) = −τ ‖f(x) − c_k‖²                                                            (equation 2, τ = 1)
    minimise over f  mean over tasks of  the cross-entropy of the queries' logits             (Algorithm 1)

    With distance="cosine" logits_k(x) = τ cos(f(x), c_k), which lies in [−τ, τ]: τ must be well above 1.

    Meta-parameters: the model's params; with learned_scale {"params": those, "scale": τ, a scalar}, and τ is reported
    as train/scale.

    Args:
        distance: "euclidean" (squared; the paper's) or "cosine".
        scale: τ, finite; 1 for euclidean and 10 for cosine where None.
        learned_scale: τ is a meta-parameter, and `scale` what it begins at. Gidaris and Komodakis 2018,
            arXiv:1804.09458, for cosine.
        model, problem: as meta.feature_learner.FeatureLearner has them.
    Raises: ValueError naming the argument; in adapt() as FeatureLearner does.
    Cost: one forward and backward pass of support and queries; logits take queries · classes · features numbers.
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
        self.distance = distance
        self.scale = SCALES[distance] if scale is None else float(scale)
        super().__init__(model, problem=problem, learned={"scale": self.scale} if learned_scale else None)

    def fit(self, features: Any, members: torch.Tensor, learned: Mapping[str, Any]) -> Logits:
        prototypes = (members / members.sum(1, keepdim=True)) @ features
        similarity = _cosine if self.distance == "cosine" else _minus_squared_distance
        scale = learned.get("scale", self.scale)
        return lambda queries: scale * similarity(queries, prototypes)


def _minus_squared_distance(features: Any, prototypes: Any) -> Any:
    # By differences: ‖f‖² − 2 f·c + ‖c‖² would take a matrix product, and lose what the squares have in common.
    return -((features[:, None] - prototypes) ** 2).sum(-1)


def _cosine(features: Any, prototypes: Any) -> Any:
    return F.normalize(features, dim=1) @ F.normalize(prototypes, dim=1).T
