"""A function's value, gradient and Hessian product by Neo and by torch.autograd, for the same text."""

from collections.abc import Callable
from typing import Any

import torch

import neo

Derivatives = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def direction(x: torch.Tensor) -> torch.Tensor:
    """A fixed vector for the Hessian product, without a symmetry that could hide an error."""
    return torch.linspace(0.5, -1.5, x.numel(), dtype=x.dtype).reshape(x.shape)


def by_neo(fn: Callable[[Any], Any], x: torch.Tensor) -> Derivatives:
    def total(x: Any) -> Any:
        return fn(x).sum()

    lite = neo.LiteTensor(x.clone())
    value, gradient = neo.value_and_grad(total, argnums=0)(lite)

    def along(x: Any) -> Any:
        return (neo.grad(total, argnums=0)(x) * direction(lite.data)).sum()

    return value.data, gradient.data, neo.grad(along, argnums=0)(lite).data


def by_torch(fn: Callable[[Any], Any], x: torch.Tensor) -> Derivatives:
    leaf = x.clone().requires_grad_()
    value = fn(leaf).sum()
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True, allow_unused=True)
    if gradient is None:
        return value.detach(), torch.zeros_like(x), torch.zeros_like(x)
    along = (gradient * direction(x)).sum()
    if not along.requires_grad:
        return value.detach(), gradient.detach(), torch.zeros_like(x)
    (second,) = torch.autograd.grad(along, leaf, allow_unused=True)
    return value.detach(), gradient.detach(), torch.zeros_like(x) if second is None else second.detach()


def assert_same_as_torch(found: Derivatives, expected: Derivatives) -> None:
    for what, ours, theirs in zip(("value", "gradient", "second derivative"), found, expected, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-10, atol=1e-10, msg=lambda text, what=what: f"{what}: {text}"
        )
