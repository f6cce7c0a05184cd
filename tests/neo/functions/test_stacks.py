"""Kernels called on the whole batch of a vmap at once: when they are, what they are given, what comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import neo
from neo.functions import _stacks

WAYS = [_stacks.on_stacks, _stacks._on_stacks]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Called:
    """Which of the two was called, with tensors of which shapes."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[tuple[int, ...]]]] = []

    def alone(self, x: Any, rest: Any, number: float) -> Any:
        self.seen.append(("alone", [tuple(x.shape), *(tuple(y.shape) for y in rest)]))
        return x * number, None, [sum(rest, x)]

    def stacked(self, x: Any, rest: Any, number: float) -> Any:
        out = self.alone(x, rest, number)
        self.seen[-1] = ("stacked", self.seen[-1][1])
        return out


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0), (1, 0), (0, 1)])
def test_slices_of_one_vmap_go_together(way: Any, dims: Any) -> None:
    called = Called()
    x, y = (drawn(3) if dim is None else drawn(3, 3, seed=seed) for seed, dim in enumerate(dims))

    def fn(x: Any, y: Any) -> Any:
        scaled, nothing, (total,) = way(called.alone, called.stacked, x, (y, y), 2.0)
        assert nothing is None
        return scaled, total

    found = torch.func.vmap(fn, dims)(x, y)
    assert called.seen == [("stacked", [(3, 3)] * 3)]
    right = torch.func.vmap(lambda x, y: (x * 2.0, x + y + y), dims)(x, y)
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_go_together_is_called_as_it_is(way: Any) -> None:
    x, y = drawn(3), drawn(3, seed=1)

    def kinds(run: Any) -> list[str]:
        called = Called()
        run(lambda x, y: way(called.alone, called.stacked, x, (y,), 2.0)[0])
        return [kind for kind, _ in called.seen]

    assert kinds(lambda fn: fn(x, y)) == ["alone"]
    assert kinds(lambda fn: torch.func.vmap(lambda z: fn(x, y) * z)(x)) == ["alone"]  # nothing is a slice
    nested = lambda fn: torch.func.vmap(lambda a: torch.func.vmap(lambda b: fn(a, b))(y))(x)  # noqa: E731
    assert kinds(nested) == ["alone"]
    inside = lambda fn: torch.func.vmap(torch.func.grad(lambda a, b: fn(a, b).sum()))(x, y)  # noqa: E731
    assert kinds(inside) == ["alone"]


@pytest.mark.parametrize("way", WAYS)
def test_an_error_leaves_the_vmap_as_it_was(way: Any) -> None:
    def fails(*args: Any) -> Any:
        raise ValueError("as the kernel has it")

    def fn(x: Any) -> Any:
        with pytest.raises(ValueError, match="as the kernel has it"):
            way(fails, fails, x)
        return torch.sin(x)

    x = drawn(3)
    torch.testing.assert_close(torch.func.vmap(fn)(x), torch.sin(x))


def test_squared_errors_and_steps_of_a_batch_are_each_example_s_own() -> None:
    x, y = neo.LiteTensor(drawn(4, 3, 2)), neo.LiteTensor(drawn(4, 3, 2, seed=1))

    def of_one(x: Any, y: Any) -> Any:
        def norm(x: Any, y: Any) -> Any:
            gradients = neo.grad(
                lambda x, y: F.mse_loss(x, y) ** 2 + F.mse_loss(x, y, reduction="sum"), (0, 1)
            )(x, y)
            (moved,), _ = neo.optim.sgd(0.3).step([x], [gradients[0]], None)
            return sum((g**3).sum() for g in (*gradients, moved))

        return neo.grad(norm, (0, 1))(x, y)

    together = neo.vmap(of_one)(x, y)
    for i in range(4):
        for found, right in zip(together, of_one(x[i], y[i]), strict=True):
            torch.testing.assert_close(found.data[i], right.data, rtol=1e-12, atol=1e-12)


def test_the_cotangent_of_a_scalar_is_each_example_s() -> None:
    x = neo.LiteTensor(drawn(4, 3))
    found = neo.vmap(lambda x: neo.grad(lambda s: s, argnums=0)(x.sum()))(x)
    assert found.tolist() == [1.0] * 4


def test_slices_on_one_memory_are_known_to_be() -> None:
    """A module that works in place, under vmap: its view is changed with the tensor that it is of."""

    class InPlace(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            view = y[:2]
            y += 1
            return view * 3

    model, params = neo.nn.from_torch(InPlace())
    x = drawn(4, 3)
    found = neo.vmap(lambda x: model(params, x))(neo.LiteTensor(x))
    torch.testing.assert_close(found.data, (x[:, :2] * 2 + 1) * 3)
