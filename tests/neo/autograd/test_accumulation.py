"""Sums of cotangents: in place where only the walk can see them, and never in what anybody else holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import neo
from neo import autograd
from neo.functions import function

SIZE = 1 << 14
kept: list[Any] = []


class Keeping(autograd.Policy):
    """y = 2 x; keeps the cotangent it gets, the gradient it gives, and what both were."""

    def forward(self, x):
        return 2 * x

    def backward(self, y_bar):
        x_bar = 2 * y_bar
        if isinstance(y_bar, torch.Tensor):
            kept.extend((value, value.clone()) for value in (y_bar, x_bar))
        return x_bar


keeping = function(Keeping)


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def drawn(size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("size", "in_place"), [(SIZE, 3), (8, 0)])
def test_terms_after_the_second_are_added_in_place_to_large_sums(size: int, in_place: int) -> None:
    x = neo.LiteTensor(drawn(size))
    with Counting() as counted:
        gradient = neo.grad(lambda x: (x * 2 + (x * 3 + (x * 4 + (x * 5 + x * 6)))).sum(), 0)(x)
    torch.testing.assert_close(gradient.data, torch.full_like(x.data, 20.0), rtol=0, atol=0)
    assert counted.names.count("aten.add_.Tensor") == in_place


def test_what_rules_hold_is_never_written() -> None:
    kept.clear()
    x = neo.LiteTensor(drawn(SIZE))
    weights = drawn(SIZE)

    def loss(x: Any) -> Any:
        y = keeping(x)
        z = sum(
            y * weights for _ in range(4)
        )  # y's cotangent is a sum, and so is x's, of terms that are kept
        return (z + keeping(x) + keeping(x) + keeping(y) + x.reshape(2, -1).reshape(-1) + x).sum()

    gradient = neo.grad(loss, 0)(x)
    torch.testing.assert_close(gradient.data, 8 * weights + 10, rtol=1e-12, atol=1e-12)
    assert len(kept) == 8
    for value, before in kept:
        assert torch.equal(value, before)


def test_the_caller_s_cotangent_and_a_second_walk_are_as_they_were() -> None:
    x = neo.LiteTensor(drawn(SIZE))
    cotangent = drawn(SIZE)
    before = cotangent.clone()
    out, pullback = neo.vjp(lambda x: x + x + x + x.reshape(2, -1).reshape(-1) + x, x)
    first, second = (pullback(neo.LiteTensor(cotangent))[0].data for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(cotangent, before)
    torch.testing.assert_close(first, 5 * before, rtol=1e-12, atol=0)
    del out


def test_sums_under_vmap_and_at_second_order() -> None:
    x = neo.LiteTensor(drawn(3 * SIZE).reshape(3, -1))

    def loss(x: Any) -> Any:
        return (x * x * x + x * x + x * 2 + x).sum()

    def norm(x: Any) -> Any:
        return (neo.grad(loss, 0)(x) ** 2).sum()

    got = neo.vmap(neo.grad(norm, 0))(x)
    gradient, slope = 3 * x.data**2 + 2 * x.data + 3, 6 * x.data + 2
    torch.testing.assert_close(got.data, 2 * gradient * slope, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(neo.grad(norm, 0)(x).data, 2 * gradient * slope, rtol=1e-10, atol=1e-10)
