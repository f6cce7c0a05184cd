"""MetaOptNet: a support vector machine on learned features. Lee et al. 2019, arXiv:1904.03758."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from meta.feature_learner import FeatureLearner, Logits
from meta.problems import Problem, constant
from meta.support_vectors import free_variables
from neo.nn import Module

__all__ = ["MetaOptNet"]


class MetaOptNet(FeatureLearner):
    """Learn an embedding f on whose features a multi-class support vector machine tells classes apart.

    a = argmin ½ Σ_k a_kᵀ (K + ρI) a_k − Σ_n a[n, y_n],  K = Z Zᵀ, Z the support set's features,
        subject to a[n, k] ≤ C [k = y_n] and Σ_k a[n, k] = 0                     (Crammer and Singer's dual, equation 7)
    logits_k(x) = γ f(x) · Σ_n a[n, k] f(x_n)                                                              (equation 11)
    minimise over (f, γ)  mean over tasks of  the cross-entropy of the queries' logits

    The problem is solved first as to which variables lie at their bounds; given those, what holds at its solution are
    linear equations, which are solved once more, and differentiated: exact, at every order. With ρ > 0 the solution is
    one. The paper's other head, ridge regression, is algorithm=r2d2.

    Meta-parameters: {"params": the model's, "scale": γ}, a scalar, reported as train/scale.

    Args:
        bound: C > 0; the paper has 0.1.
        ridge: ρ > 0; the authors' code has 1.0.
        scale: what γ begins at, finite; the authors' code has 1.0.
        model, problem: as meta.feature_learner.FeatureLearner has them.
    Raises: ValueError naming the argument; in adapt() as FeatureLearner does; neo.errors.ConvergenceError where the
        bounds are not found in 20 000 iterations.
    Cost: one forward and backward pass of support and queries, some hundred iterations of examples² · classes, and a
        dense system of examples · (classes + 1) equations: 30 at 5-way 1-shot, 2100 at 20-way 5-shot. Which
        bounds are active is read from numbers, as the labels are.
    """

    def __init__(
        self,
        model: Module,
        *,
        bound: float = 0.1,
        ridge: float = 1.0,
        scale: float = 1.0,
        problem: Problem | None = None,
    ):
        for name, value in (("bound", bound), ("ridge", ridge)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"MetaOptNet: {name} must be a finite number greater than 0, got {value}")
        if not math.isfinite(scale):
            raise ValueError(f"MetaOptNet: scale must be a finite number, got {scale}")
        self.bound, self.ridge = float(bound), float(ridge)
        super().__init__(model, problem=problem, learned={"scale": float(scale)})

    def fit(self, features: Any, members: torch.Tensor, learned: Mapping[str, Any]) -> Logits:
        classes = members.T
        kernel = features @ features.T + self.ridge * torch.eye(len(classes)).to(classes)
        free = free_variables(constant(kernel), classes, self.bound)
        weights = features.T @ _at_solution(kernel, classes, self.bound, free)
        return lambda queries: learned["scale"] * (queries @ weights)


def _at_solution(kernel: Any, classes: torch.Tensor, bound: float, free: torch.Tensor) -> Any:
    """a (examples, classes), given which of its entries lie below their bounds.

    (kernel a)[n, k] − μ_n = [k = y_n] where a is free, a[n, k] = C [k = y_n] elsewhere, Σ_k a[n, k] = 0.
    """
    examples, ways = classes.shape
    flat = free.flatten().to(classes)
    of_example = torch.kron(torch.eye(examples), torch.ones(ways, 1)).to(
        classes
    )  # (examples · ways, examples)
    curvature = torch.kron(kernel, torch.eye(ways).to(classes))
    stationary = flat[:, None] * torch.cat([curvature, -of_example], 1)
    at_bound = torch.cat([torch.diag(1 - flat), torch.zeros_like(of_example)], 1)
    balanced = torch.cat([of_example.T, torch.zeros(examples, examples).to(classes)], 1)
    right = torch.cat(
        [torch.where(free, classes, bound * classes).flatten(), torch.zeros(examples).to(classes)]
    )
    solution = torch.linalg.solve(torch.cat([stationary + at_bound, balanced]), right)
    return solution[: examples * ways].reshape(examples, ways)
