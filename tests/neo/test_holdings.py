"""neo.autograd.session.holdings: the bytes that a session's tape holds, by Policy, where they are known."""

from __future__ import annotations

import pytest
import torch

import neo
from neo import autograd
from neo.autograd.session.holdings import held_bytes
from neo.functions import function

N = 100  # numbers of a tensor, of 8 bytes
DRAWS = (
    torch.get_rng_state().numel()
)  # bytes of a generator's state, which what is recomputed draws from again


class Saves(autograd.Policy):
    """y = 2 x; saves its output, and a tensor that nobody else has."""

    def forward(self, x):
        y = 2 * x
        self.ctx.save(y, self.ctx.constant(torch.ones(3, dtype=x.dtype)))
        return y

    def backward(self, y_bar):
        return 2 * y_bar


saves = function(Saves)


def tensor() -> neo.LiteTensor:
    return neo.LiteTensor(torch.linspace(0.1, 1, N, dtype=torch.float64))


def test_a_tape_holds_what_its_policies_saved_each_tensor_once():
    x, w = tensor(), tensor()

    def loss(x, w):
        a = torch.tanh(x)  # saves a
        b = saves(a)  # saves b, and three numbers
        return (b * w).sum()  # saves b, which is there, and w, an argument

    found = held_bytes(lambda: neo.grad(loss)(x, w), [x, w])
    assert {name: size for name, size in found.items() if size} == {"Tanh": 8 * N, "Saves": 8 * N + 8 * 3}


def test_arguments_count_where_nobody_says_that_they_are_there_anyway():
    x, w = tensor(), tensor()
    assert sum(held_bytes(lambda: neo.grad(lambda x, w: (x * w).sum())(x, w)).values()) == 2 * 8 * N
    assert sum(held_bytes(lambda: neo.grad(lambda x, w: (x * w).sum())(x, w), [x]).values()) == 8 * N


def test_it_is_the_outermost_session_that_is_looked_at():
    x = tensor()

    def inner(x):
        return (x.exp() * x).sum()

    def outer(x):
        return (neo.grad(inner, argnums=0)(x) * 3).sum()

    inside = held_bytes(lambda: neo.grad(inner)(x), [x])
    outside = held_bytes(lambda: neo.grad(outer)(x), [x])
    assert inside["Exp"] == 8 * N
    assert sum(outside.values()) > sum(inside.values())


def test_a_checkpoint_holds_its_inputs_and_outputs():
    x = tensor()

    def loss(x):
        y = x * 2  # a number: saves nothing
        return neo.checkpoint(lambda y: y.tanh().tanh().exp())(y).sum()

    found = held_bytes(lambda: neo.grad(loss)(x), [x])
    assert found["checkpoint(<lambda>)"] == 2 * 8 * N + DRAWS
    assert "Tanh" not in found


def test_a_gradient_in_mixed_mode_holds_the_parameters_it_was_taken_at():
    x = tensor()

    def steps(x, count):
        for _ in range(count):
            x = x - 0.1 * neo.grad(support, argnums=0, mode="mixed")(x)
        return (x * x).sum()

    def support(x):
        return x.tanh().exp().sum()

    few, many = (held_bytes(lambda n=n: neo.grad(lambda x: steps(x, n))(x), [x])["support"] for n in (2, 7))
    assert many - few == 5 * (8 * N + 8 + DRAWS)  # and the value of the loss


def test_nothing_stays_open_after_an_error():
    with pytest.raises(AttributeError):
        held_bytes(lambda: neo.grad(lambda x: x.nothing())(tensor()))
    assert autograd.TapeContext.current() is None
    assert sum(held_bytes(lambda: neo.grad(lambda x: x.exp().sum())(tensor())).values()) > 0
