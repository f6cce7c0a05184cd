"""Matching networks: attention over the support set in a learned embedding. Vinyals et al. 2016, arXiv:1606.04080."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from meta.feature_learner import FeatureLearner, Logits
from meta.problems import Problem
from neo.nn import Module

__all__ = ["MatchingNet"]


class MatchingNet(FeatureLearner):
    """Learn an embedding f in which a query's class is that of the support examples it attends to.

    P(k | x) = Σ_i a(x, x_i) [y_i = k],  a(x, x_i) = softmax over i of τ cos(f(x), f(x_i))  (equation 1, section 2.1.1)
    minimise over f  mean over tasks of  −log P(y | x) of the queries                          (equation 2)

    Logits are log P. Support and queries have one embedding, f = g; the paper's full context embeddings, which read the
    support set by an LSTM before they compare, are not here; on Omniglot they did not help (section 4.1.1).
    With one example of each class it is ProtoNet with distance="cosine".

    Meta-parameters: the model's params; with learned_scale {"params": those, "scale": τ, a scalar}, and τ is reported
    as train/scale.

    Args:
        scale: τ > 0; the paper's is 1, which bounds P: at 5-way 1-shot by e / (e + 4/e) = 0.65.
        learned_scale: τ is a meta-parameter, and `scale` what it begins at.
        model, problem: as meta.feature_learner.FeatureLearner has them.
    Raises: ValueError naming the argument; in adapt() as FeatureLearner does.
    Cost: one forward and backward pass of support and queries.
    """

    def __init__(
        self,
        model: Module,
        *,
        scale: float = 1.0,
        learned_scale: bool = False,
        problem: Problem | None = None,
    ):
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"MatchingNet: scale must be a finite number greater than 0, got {scale}")
        self.scale = float(scale)
        super().__init__(model, problem=problem, learned={"scale": self.scale} if learned_scale else None)

    def fit(self, features: Any, members: torch.Tensor, learned: Mapping[str, Any]) -> Logits:
        normalised = F.normalize(features, dim=1)
        others = members == 0
        scale = learned.get("scale", self.scale)

        def logits(queries: Any) -> Any:
            similarities = scale * (F.normalize(queries, dim=1) @ normalised.T)
            of_class = similarities[:, None].masked_fill(others, -math.inf)
            return torch.logsumexp(of_class, 2) - torch.logsumexp(similarities, 1, keepdim=True)

        return logits
