"""A converted module whose first call is inside vmap: checked on one example, and right for all."""

from __future__ import annotations

import contextlib

import optree
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import neo
from neo import LiteTensor
from neo.autograd import TapeContext
from neo.errors import ConversionError, NeoError


def normal(*shape, seed=0):
    return LiteTensor(torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x, shift=None):
        h = F.relu(self.norm(self.conv(x)), inplace=True).mean((2, 3)) * self.scale
        return self.head(h if shift is None else h + shift)


def converted(module=Small, **options):
    torch.manual_seed(0)
    return neo.nn.from_torch(module().double(), **options)


def assert_same(got, expected):
    for a, b in zip(optree.tree_leaves(got), optree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(a.data, b.data, rtol=1e-9, atol=1e-9)


X = normal(3, 4, 2, 5, 5)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_first_call_in_vmap_equals_the_loop(order, chunk_size):
    def run(call_first):
        model, params = converted()
        if call_first:
            model(params, X[0])

        def fn(params, x):
            return (model(params, x) ** 2).sum()

        for _ in range(order):
            fn = neo.grad(
                lambda p, x, f=fn: sum((g**2).sum() for g in optree.tree_leaves(f(p, x))), argnums=0
            )
        if call_first:
            rows = [fn(params, x) for x in X]
            return optree.tree_map(lambda *leaves: torch.stack(leaves), *rows)
        return neo.vmap(fn, (None, 0), chunk_size=chunk_size)(params, X)

    assert_same(run(False), run(True))


def test_first_call_in_a_session_around_vmap_and_in_nested_vmaps():
    model, params = converted(lambda: nn.Linear(4, 3))
    x, y = normal(2, 5, 4), normal(2, 5, 3, seed=1)

    def total(params):
        nested = neo.vmap(neo.vmap(lambda x, y: F.mse_loss(model(params, x), y), (1, 1)))
        return nested(x.transpose(1, 2), y.transpose(1, 2)).mean()

    got = neo.grad(total, argnums=0)(params)
    expected = neo.grad(lambda params: F.mse_loss(model(params, x), y), argnums=0)(params)
    assert_same(got, expected)
    assert TapeContext.current() is None


def test_params_arguments_and_state_may_all_be_sliced():
    model, params = converted(buffers="updated")
    many = optree.tree_map(lambda p: torch.stack([p, p * 0.5, p + 1]), params)
    states = {name: torch.stack([value] * 3) for name, value in model.state.items()}
    shifts = normal(3, 3)

    def call(params, state, x, shift):
        return model(params, x, shift=shift, state=state)

    got = neo.vmap(call)(many, states, X, shifts)
    pick = lambda tree, i: optree.tree_map(lambda leaf: leaf[i], tree)  # noqa: E731
    rows = [call(pick(many, i), pick(states, i), X[i], shifts[i]) for i in range(3)]
    for i, row in enumerate(rows):
        for a, b in zip(optree.tree_leaves(got), optree.tree_leaves(row), strict=True):
            torch.testing.assert_close(neo.LiteTensor(a[i]).data, neo.LiteTensor(b).data)


def test_first_call_with_dropout_and_a_seed():
    def run(call_first):
        model, params = converted(lambda: nn.Sequential(nn.Linear(4, 30), nn.Dropout(0.5)))
        x = normal(3, 4)
        if call_first:
            model(params, x[0], seed=3)
            return torch.stack([model(params, row, seed=3) for row in x])
        return neo.vmap(lambda x: model(params, x, seed=3), randomness="same")(x)

    assert_same(run(False), run(True))


class UsedAgain(nn.Module):
    """Neo reads the in-place relu as a new tensor, which comes out different from torch's."""

    def forward(self, x):
        y = x * 2
        z = F.relu(y, inplace=True)
        return y + z


class Draws(nn.Module):
    def forward(self, x):
        return x * torch.rand(4)


def test_check_of_the_first_call_is_made_inside_vmap_too():
    model, params = converted(UsedAgain)
    x = normal(3, 4)
    with contextlib.suppress(ConversionError):  # refused, or right; as outside of vmap
        got = neo.vmap(lambda x: model(params, x))(x)
        torch.testing.assert_close(got.data, 2 * torch.relu(x.data * 2))


def test_empty_batch_leaves_the_check_to_a_later_call():
    model, params = converted(lambda: nn.Linear(4, 3))
    assert neo.vmap(lambda x: model(params, x))(normal(0, 4)).shape == (0, 3)
    assert not model._verified
    neo.vmap(lambda x: model(params, x))(normal(2, 4))
    assert model._verified


def test_draws_in_forward_follow_the_vmap_around():
    model, params = converted(Draws, verify=False)
    with pytest.raises((RuntimeError, NeoError), match="randomness"):
        neo.vmap(lambda x: model(params, x))(normal(3, 4))
    model, params = converted(Draws)
    with pytest.raises((RuntimeError, NeoError), match="randomness"):
        neo.vmap(lambda x: model(params, x))(normal(3, 4))
