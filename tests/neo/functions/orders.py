"""Gradients of any order by two roads: Neo's nested sessions, and torch's own double backward as the examiner.

The scalar at each order is Σ w (v + v²/2) over what the order before gave (v), w fixed and uneven, so that cotangents
depend on the inputs and no term can hide behind a symmetry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch

from neo import LiteTensor
from neo.autograd import session

__all__ = ["assert_orders_agree", "close", "neo_orders", "torch_orders"]


def weights(value: Any) -> torch.Tensor:
    """Uneven numbers between 0.5 and 1.5, in the shape and dtype of value."""
    n = value.numel()
    line = torch.arange(n, dtype=torch.float64, device="cpu").mul(2.39996).sin().mul(0.5).add(1.0)
    return line.reshape(tuple(value.shape)).to(dtype=value.dtype, device=value.device)


def scalar(out: Any) -> Any:
    """Σ w (v + v²/2) over the floating-point tensors of a pytree; None when there are none."""
    total = None
    for value in tensors(out):
        part = (weights(value) * (value + value * value * 0.5)).sum()
        total = part if total is None else total + part
    return total


def tensors(out: Any) -> list[Any]:
    if isinstance(out, torch.Tensor | LiteTensor):
        return [out] if out.is_floating_point() else []
    if isinstance(out, tuple | list):
        return [value for part in out for value in tensors(part)]
    if isinstance(out, dict):
        return [value for part in out.values() for value in tensors(part)]
    return []


def neo_orders(fn: Callable[..., Any], args: Sequence[torch.Tensor], order: int) -> tuple[LiteTensor, ...]:
    """The gradients of fn by nested sessions: order 1 of scalar(fn), order 2 of scalar(those), and so on."""
    places = tuple(range(len(args)))

    def level(inner: Callable[..., Any]) -> Callable[..., Any]:
        return session.grad(lambda *xs: scalar(inner(*xs)), argnums=places)

    for _ in range(order):
        fn = level(fn)
    return fn(*[LiteTensor(x) for x in args])


def torch_orders(
    fn: Callable[..., Any], args: Sequence[torch.Tensor], order: int
) -> tuple[torch.Tensor, ...]:
    """The same by torch's backward of backward."""
    args = [x.detach().clone().requires_grad_() for x in args]
    out = fn(*args)
    for _ in range(order):
        total = scalar(out)
        if total is None or not total.requires_grad:
            return tuple(torch.zeros_like(x) for x in args)
        out = torch.autograd.grad(total, args, create_graph=True, allow_unused=True, materialize_grads=True)
    return tuple(x.detach() for x in out)


def close(
    got: Any, expected: torch.Tensor, what: str, tolerance: float = 1e-8, absolute: float | None = None
) -> None:
    """Equal in shape, dtype and device, and in value to a tolerance, relative or absolute."""
    got = got.data if isinstance(got, LiteTensor) else got
    assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    assert got.dtype == expected.dtype, f"{what}: dtype {got.dtype}, expected {expected.dtype}"
    assert got.device == expected.device, f"{what}: device {got.device}, expected {expected.device}"
    torch.testing.assert_close(
        got,
        expected,
        rtol=tolerance,
        atol=tolerance if absolute is None else absolute,
        equal_nan=True,
        msg=lambda text: f"{what}: {text}",
    )


def assert_orders_agree(
    fn: Callable[..., Any],
    args: Sequence[torch.Tensor],
    orders: int = 2,
    examiner: Callable[..., Any] | None = None,
    tolerance: float = 1e-8,
) -> None:
    """Value and gradients of fn, up to `orders`, by Neo on fn and by torch on `examiner`, fn itself by default."""
    examiner = examiner or fn
    got, expected = fn(*[LiteTensor(x) for x in args]), examiner(*args)
    flat, expected_flat = optree.tree_leaves(got), optree.tree_leaves(expected)
    assert len(flat) == len(expected_flat), f"value: {len(flat)} leaves, expected {len(expected_flat)}"
    for i, (a, b) in enumerate(zip(flat, expected_flat, strict=True)):
        if isinstance(b, torch.Tensor):
            close(a, b, f"value {i}", tolerance)
        else:
            assert a == b, f"value {i}: {a!r}, expected {b!r}"
    for order in range(1, orders + 1):
        pairs = zip(neo_orders(fn, args, order), torch_orders(examiner, args, order), strict=True)
        for i, (a, b) in enumerate(pairs):
            close(a, b, f"gradient of order {order}, input {i}", tolerance)
