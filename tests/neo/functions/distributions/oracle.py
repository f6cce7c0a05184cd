"""The same code on torch tensors, differentiated twice by torch, and on LiteTensors, differentiated twice by Neo."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import neo
from neo.errors import GradientError

REFUSED = r"derivative.* is not implemented, in torch neither|marked @once_differentiable"


def weights_like(out: torch.Tensor) -> torch.Tensor:
    """Fixed numbers, none of them equal, so that no entry of a gradient can stand in for another."""
    return torch.cos(torch.arange(1.0, out.numel() + 1, dtype=torch.float64)).reshape(out.shape).to(out.dtype)


def by_torch(
    fn: Callable[..., Any], inputs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, list[Any] | None, list[Any] | None]:
    """fn's value, its gradients and the Hessian times fixed vectors; None for what torch cannot differentiate."""
    leaves = [value.clone().requires_grad_() for value in inputs]
    out = fn(*leaves)
    zeros = [torch.zeros_like(leaf) for leaf in leaves]
    if not out.requires_grad:
        return out, zeros, zeros
    loss = (out * weights_like(out)).sum()
    try:
        first = torch.autograd.grad(
            loss, leaves, create_graph=True, allow_unused=True, materialize_grads=True
        )
    except NotImplementedError:
        return out.detach(), None, None
    if not any(g.requires_grad for g in first):
        return out.detach(), list(first), zeros
    along = sum((g * weights_like(g)).sum() for g in first)
    try:
        second = list(torch.autograd.grad(along, leaves, allow_unused=True, materialize_grads=True))
    except (RuntimeError, NotImplementedError):
        second = None
    return out.detach(), [g.detach() for g in first], second


def by_neo(
    fn: Callable[..., Any], inputs: Sequence[torch.Tensor], order: int
) -> tuple[Any, list[Any], list[Any] | None]:
    leaves = tuple(neo.LiteTensor(value.clone()) for value in inputs)
    places = tuple(range(len(leaves)))

    def loss(*leaves: Any) -> tuple[Any, Any]:
        out = fn(*leaves)
        value = out if isinstance(out, neo.LiteTensor) else neo.LiteTensor(out)
        number = value if value.is_floating_point() else value.double()
        return (number * weights_like(number.data)).sum(), value

    def along(*leaves: Any) -> Any:
        first, value = neo.grad(loss, argnums=places, has_aux=True)(*leaves)
        return sum((g * weights_like(g.data)).sum() for g in first), (first, value)

    if order == 1:
        first, value = neo.grad(loss, argnums=places, has_aux=True)(*leaves)
        return value.data, [g.data for g in first], None
    second, (first, value) = neo.grad(along, argnums=places, has_aux=True)(*leaves)
    return value.data, [g.data for g in first], [g.data for g in second]


def compare(
    fn: Callable[..., Any], inputs: Sequence[torch.Tensor], seed: int = 0, once: bool = False
) -> None:
    """Value, first and second order: Neo's are torch's, to 1e-8. seed: of torch's default generator before each run.

    Where torch has no derivative (once: no second one, without saying so), Neo refuses by name.
    """
    torch.manual_seed(seed)
    value, first, second = by_torch(fn, inputs)
    second = None if once else second
    order = 2 if second is not None else 1
    if order == 1:
        torch.manual_seed(seed)
        with pytest.raises((NotImplementedError, GradientError), match=REFUSED):
            by_neo(fn, inputs, 1 if first is None else 2)
        if first is None:
            return
    torch.manual_seed(seed)
    ours = by_neo(fn, inputs, order)
    close(ours[0], value, "value")
    assert first is not None
    for i, (found, expected) in enumerate(zip(ours[1], first, strict=True)):
        close(found, expected, f"gradient of input {i}")
    if second is not None:
        assert ours[2] is not None
        for i, (found, expected) in enumerate(zip(ours[2], second, strict=True)):
            close(found, expected, f"second order of input {i}")


def close(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(
        found, expected.detach(), rtol=1e-8, atol=1e-8, equal_nan=True, msg=lambda words: f"{what}: {words}"
    )
