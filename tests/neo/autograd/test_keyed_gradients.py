"""Gradients keyed by tensor that leave a transform: the keys are what its caller passed, as without the transform."""

from __future__ import annotations

import pytest
import torch

import neo
from neo.autograd import session


def number(value):
    return neo.LiteTensor(torch.as_tensor(value, dtype=torch.float64))


def d(fn, argnums=0, **options):
    return session.grad(fn, argnums=argnums, **options)


def close(got, expected):
    torch.testing.assert_close(got.data, torch.as_tensor(expected, dtype=torch.float64))


X, V = number([0.5, -1.0, 2.0]), number([1.0, 2.0, -3.0])

KEYED = {  # each gives, at X, what neo.grad(f)(x) gave inside
    "value_and_grad": lambda fn: session.value_and_grad(fn)(X)[0],
    "vjp": lambda fn: session.vjp(fn, X)[0],
    "jvp": lambda fn: session.jvp(fn, (X,), (V,))[0],
    "linearize": lambda fn: session.linearize(fn, X)[0],
    "aux": lambda fn: d(lambda x: ((x * x).sum(), [fn(x), "beside"]), has_aux=True)(X)[1][0],
    "checkpoint": lambda fn: session.vjp(session.checkpoint(fn), X)[0],
    "vmap": lambda fn: session.vmap(fn)(X),
    "chunks": lambda fn: session.vmap(fn, chunk_size=2)(X),
    "vmap in a session": lambda fn: session.vjp(session.vmap(fn), X)[0],
    "beside a value": lambda fn: session.vmap(lambda x: (x, fn(x)))(X)[1],
}


@pytest.mark.parametrize("name", KEYED)
def test_keys_are_the_tensors_that_the_caller_passed(name):
    got = KEYED[name](session.grad(lambda x: (x**2).sum()))
    assert list(got) == [X]
    close(got[X], 2 * X.data)


def test_every_value_at_a_key_is_differentiable():
    keyed = session.grad(lambda x, y: (x * x * y).sum())
    for fn in (keyed, session.vmap(keyed), session.vmap(keyed, chunk_size=1)):
        out, pullback = session.vjp(fn, X, V)
        gx, gy = pullback({V: X, X: V})
        close(gx, 2 * V.data * V.data + 2 * X.data * X.data)
        close(gy, 2 * X.data * V.data)
        assert list(session.jvp(fn, (X, V), (V, X))[1]) == list(out)


def test_one_tensor_in_two_places_keeps_two_keys_inside():
    out, _ = session.vjp(lambda x, y: session.grad(lambda x, y: (x * x * y).sum())(x, y), X, X)
    assert [g.tolist() for g in out.values()] == [(2 * X.data**2).tolist(), (X.data**2).tolist()]


def test_other_keys_and_objects_stay_what_they_are():
    seen = {"names": ["a"], X: 1}
    _, aux = d(lambda x: (x * x, (seen, [x])), has_aux=True)(V)
    assert aux[0] is seen
    closed = session.vmap(lambda y: session.grad(lambda v: v * y)(V))(X)
    assert list(closed) == [V]
