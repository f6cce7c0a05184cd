"""The Korteweg-de Vries equation's residual u_t + 6 u u_x + u_xxx, for any framework's derivatives.

u = predict(points), (n, 1), of points (n, 2), columns x and t. Its gradient goes through third derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["by_autograd", "by_forward", "by_reverse", "by_taylor"]

Predict = Callable[[Any], Any]


def by_autograd(predict: Predict, points: torch.Tensor) -> torch.Tensor:
    """torch.autograd.grad, three times over."""

    def slope(values: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(values.sum(), x, create_graph=True)[0]

    x = points.detach().requires_grad_()
    u = predict(x)
    first = slope(u)
    second = slope(first[:, :1])
    third = slope(second[:, :1])
    return first[:, 1:] + 6 * u * first[:, :1] + third[:, :1]


def by_reverse(grad: Callable[..., Any], predict: Predict, points: Any) -> Any:
    """grad in grad in grad; grad: torch.func's or Neo's."""

    def value(x: Any) -> tuple[Any, Any]:
        u = predict(x)
        return u.sum(), (u,)

    def slope_of(below: Callable[[Any], tuple[Any, Any]]) -> Callable[[Any], tuple[Any, Any]]:
        def slope(x: Any) -> tuple[Any, Any]:
            gradient, values = grad(below, argnums=0, has_aux=True)(x)
            return gradient[:, :1].sum(), (*values, gradient)

        return slope

    _, (u, first, _, third) = slope_of(slope_of(slope_of(value)))(points)
    return first[:, 1:] + 6 * u * first[:, :1] + third[:, :1]


def by_forward(jvp: Callable[..., Any], predict: Predict, points: Any) -> Any:
    """jvp of jvp of jvp along x, and one along t; jvp: torch.func's or Neo's."""
    axes = torch.eye(2, dtype=points.dtype, device=points.device)
    along_x, along_t = (axis.expand(points.shape) for axis in axes)

    def first(x: Any) -> Any:
        return jvp(predict, (x,), (along_x,))  # u, u_x

    def second(x: Any) -> Any:
        return jvp(first, (x,), (along_x,))  # (u, u_x), (u_x, u_xx)

    ((u, u_x), _), (_, (_, u_xxx)) = jvp(second, (points,), (along_x,))
    _, u_t = jvp(predict, (points,), (along_t,))
    return u_t + 6 * u * u_x + u_xxx


def by_taylor(jet: Callable[..., Any], predict: Predict, points: Any) -> Any:
    """One jet of third order along (x + s, t + s³/6), whose third derivative by s is u_xxx + u_t; jet: Neo's.

    As its t has no first and no second derivative, all that the chain rule leaves of it is u_t. (by_autograd and
    by_reverse have u_t from the gradient that gives u_x.)
    """
    axes = torch.eye(2, dtype=points.dtype, device=points.device)
    along_x, along_t = (axis.expand(points.shape) for axis in axes)
    u, (u_x, _, third) = jet(predict, (points,), ((along_x, None, along_t),))
    return third + 6 * u * u_x
