"""R2-D2: ridge regression on learned features. Bertinetto, Henriques, Torr and Vedaldi 2019, arXiv:1805.08136."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from meta.feature_learner import FeatureLearner, Logits
from meta.problems import Problem
from neo.nn import Module

__all__ = ["R2D2"]


class R2D2(FeatureLearner):
    """Learn an embedding f on whose features ridge regression tells classes apart, and how strongly it is held back.

    W = argmin ‖Z W − Y‖² + λ ‖W‖² = Zᵀ (Z Zᵀ + λI)⁻¹ Y,  Z the support set's features, Y its classes, one of k
                                                                                              (equations 4 and 6)
    logits(x) = α f(x) W                                                                      (equation 7)
    minimise over (f, α, λ)  mean over tasks of  the cross-entropy of the queries' logits

    The smaller of the two systems is solved, of examples or of features; W is the same. The paper's β, a number added
    to every logit, cancels in the cross-entropy, and is left out.

    Meta-parameters: {"params": the model's, "scale": α, "log_regularization": log λ}, scalars, reported as train/scale
    and train/log_regularization.

    Args:
        regularization: what λ begins at, > 0, in units of squared features.
        scale: what α begins at, finite. Regression on 0 and 1 gives values of that order: too alike for a softmax.
        model, problem: as meta.feature_learner.FeatureLearner has them.
    Raises: ValueError naming the argument; in adapt() as FeatureLearner does.
    Cost: one forward and backward pass of support and queries, and a system of min(examples, features) equations.
    """

    def __init__(
        self,
        model: Module,
        *,
        regularization: float = 1.0,
        scale: float = 10.0,
        problem: Problem | None = None,
    ):
        if not (math.isfinite(regularization) and regularization > 0):
            raise ValueError(
                f"R2D2: regularization must be a finite number greater than 0, got {regularization}"
            )
        if not math.isfinite(scale):
            raise ValueError(f"R2D2: scale must be a finite number, got {scale}")
        learned = {"scale": float(scale), "log_regularization": math.log(regularization)}
        super().__init__(model, problem=problem, learned=learned)

    def fit(self, features: Any, members: torch.Tensor, learned: Mapping[str, Any]) -> Logits:
        examples, width = features.shape
        size = min(examples, width)
        identity = torch.eye(size, dtype=members.dtype, device=members.device)
        held_back = torch.exp(learned["log_regularization"]) * identity
        if examples <= width:
            weights = features.T @ torch.linalg.solve(features @ features.T + held_back, members.T)
        else:
            weights = torch.linalg.solve(features.T @ features + held_back, features.T @ members.T)
        return lambda queries: learned["scale"] * (queries @ weights)
