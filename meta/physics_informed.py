"""Functions found from the differential equation that they solve. Raissi et al. 2019, doi:10.1016/j.jcp.2018.10.045."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

import neo
from meta.problems import Predict, Regression, constant
from neo import LiteTensor
from neo.guards import require

__all__ = ["PhysicsInformed", "korteweg_de_vries"]

Equation = Callable[[Predict, torch.Tensor], Any]


class PhysicsInformed(Regression):
    """The inner loop descends mean r(points)² + weight · mean (u − known)²; queries are Regression's, exact values.

    Derivatives in r are Neo's own, of forward mode, and so the inner loop's gradient and the meta-gradient are right
    through them. The model must have as many derivatives, two more than r for an exact meta-gradient, none of them
    zero everywhere: sines or tanh, no ReLU.

    Args:
        equation: (predict, points) → residual r, (n,) or (n, 1), of a model predict: (n, coordinates) → (n, 1), that is
            0 where the equation holds; built of neo.jet, say.
        weight: of initial and boundary values, > 0.
    Raises: ValueError naming the argument.
    Cost: that of the equation's derivatives, in each inner step.
    """

    def __init__(self, equation: Equation, *, weight: float = 1.0) -> None:
        if not 0 < weight < math.inf:
            raise ValueError(f"PhysicsInformed: weight must be finite and above 0, got {weight}")
        self.equation, self.weight = equation, weight

    def support_loss(self, predict: Predict, support: Any) -> Any:
        """support: tasks.Collocation, points without targets and known values."""
        known = self.loss(predict(support.known.x), support.known.y)
        return self.equation(predict, support.points).square().mean() + self.weight * known


def korteweg_de_vries(predict: Predict, points: Any) -> Any:
    """The residual u_t + 6 u u_x + u_xxx, (n, 1), of u = predict at points (n, 2), columns x and t.

    Raises: ValueError for a model without a third derivative.
    Cost: a pass of `neo.jet` to third order along x, and one of first order along t.
    """
    axes = torch.eye(2, dtype=points.dtype, device=points.device)
    along_x, along_t = (axis.expand(points.shape) for axis in axes)
    if not isinstance(points, LiteTensor):
        points = LiteTensor(points)  # forward mode moves no constants
    u, (u_x, _, u_xxx) = neo.jet(predict, (points,), ((along_x, None, None),))
    require(
        (constant(u_xxx) != 0).any(),
        lambda: ValueError(
            "korteweg_de_vries: the model's third derivative in x is 0 at every point, as that of a network of ReLUs "
            "is, and the equation would be another one; take a smooth model, as model=siren."
        ),
    )
    _, u_t = neo.jvp(predict, (points,), (along_t,))
    return u_t + 6 * u * u_x + u_xxx
