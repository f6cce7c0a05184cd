"""Cotangents, tangents and vectors of another structure, and argnums that are no positions: named, never guessed at."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
import torch

import neo
from neo.autograd import session


def number(value):
    return neo.LiteTensor(torch.as_tensor(value, dtype=torch.float64))


class Pair(NamedTuple):
    a: object
    b: object


X, V = number([0.5, -1.0, 2.0]), number([1.0, 2.0, -3.0])


def named(x):
    return {"a": x * 2, "b": x * 3}


# fn, a cotangent with as many leaves, what the error says
OTHER = {
    "other keys": (named, {"a": V, "c": V}, r"lacks \['b'\] and has \['c'\]"),
    "tuple for dict": (named, (V, V), r"lacks \['a'\], \['b'\] and has \[0\], \[1\]"),
    "list for dict": (named, [V, V], r"lacks \['a'\]"),
    "dict for tuple": (lambda x: (x, x * 2), {"a": V, "b": V}, r"lacks \[0\], \[1\]"),
    "list for tuple": (lambda x: (x, x * 2), [V, V], r"other containers.*\(\*, \*\).*\[\*, \*\]"),
    "tuple for list": (lambda x: [x, x * 2], (V, V), "other containers"),
    "tuple for named tuple": (lambda x: Pair(x, x * 2), (V, V), r"lacks \.a, \.b and has \[0\], \[1\]"),
    "deeper": (lambda x: (x, x), ((V, V),), r"lacks \[0\], \[1\] and has \[0\]\[0\], \[0\]\[1\]"),
    "flat for nested": (lambda x: {"a": [x, x], "b": x}, [V, V, V], r"lacks \['a'\]\[0\]"),
    "nested otherwise": (lambda x: ([x, x], x), (V, [V, V]), r"lacks \[0\]\[0\]"),
    "container for a tensor": (lambda x: x * 2, [V], r"lacks a tensor and has \[0\]"),
    "dict for a tensor": (lambda x: x * 2, {"x": V}, r"lacks a tensor and has \['x'\]"),
    "tensor for a container": (lambda x: [x * 2], V, r"lacks \[0\] and has one tensor"),
    "none beside": (lambda x: (x, None), (V, V), "which is not expected"),
}


@pytest.mark.parametrize("name", OTHER)
def test_cotangent_of_another_structure_is_named_with_its_path(name):
    fn, cotangent, message = OTHER[name]
    with pytest.raises(ValueError, match=f"(?s)cotangent.*{message}"):
        session.value_and_grad(fn, argnums=0, cotangent=cotangent)(X)
    with pytest.raises(ValueError, match=f"(?s)cotangent.*{message}"):
        session.grad(fn, cotangent=cotangent)(X)
    _, pullback = session.vjp(fn, X)
    with pytest.raises(ValueError, match=f"(?s)pullback of .* cotangent.*{message}"):
        pullback(cotangent)


@pytest.mark.parametrize("name", OTHER)
def test_tangents_and_vectors_of_another_structure_are_named_with_their_path(name):
    fn, given, message = OTHER[name]
    mirror = fn(X)  # here the structure of an argument
    first = lambda tree: tree if isinstance(tree, neo.LiteTensor) else next(iter(leaves(tree)))  # noqa: E731
    with pytest.raises(ValueError, match=f"(?s)jvp: the tangent of argument 0 must mirror it.*{message}"):
        session.jvp(first, (mirror,), (given,))
    with pytest.raises(ValueError, match=f"(?s)hvp: the vector of argument 0 must mirror it.*{message}"):
        session.hvp(first, (mirror,), (given,))


def leaves(tree):
    return neo.pytree.leaves(tree)


def test_cotangents_in_the_structure_of_the_output_are_taken_by_key_and_not_by_order():
    for cotangent in ({"b": V, "a": X}, OrderedDict([("b", V), ("a", X)])):
        got = session.grad(named, argnums=0, cotangent=cotangent)(X)
        torch.testing.assert_close(got.data, 2 * X.data + 3 * V.data)
    got = session.grad(lambda x: Pair(x * 2, [x * 3]), argnums=0, cotangent=Pair(X, [V]))(X)
    torch.testing.assert_close(got.data, 2 * X.data + 3 * V.data)


def test_numbers_arrays_and_nested_lists_are_cotangents_of_one_tensor():
    for cotangent in ([1.0, 2.0, -3.0], np.array([1.0, 2.0, -3.0]), (1, 2, -3)):
        got = session.grad(lambda x: x * x, argnums=0, cotangent=cotangent)(X)
        torch.testing.assert_close(got.data, 2 * X.data * V.data)
    assert session.grad(lambda x: x.sum(), argnums=0, cotangent=2.0)(X).tolist() == [2.0, 2.0, 2.0]


def test_missing_cotangent_of_one_output_is_named():
    _, pullback = session.vjp(named, X)
    with pytest.raises(ValueError, match=r"cotangent.*\['b'\]"):
        pullback({"a": V, "b": None})


def test_wrong_shape_and_dtype_are_named_with_their_path():
    _, pullback = session.vjp(lambda x: {"a": [x, x.sum()]}, X)
    with pytest.raises(ValueError, match=r"cotangent\['a'\]\[1\] has shape \(3,\).*expected \(\)"):
        pullback({"a": [V, V]})
    with pytest.raises(ValueError, match=r"cotangent\['a'\]\[0\] has .* torch.float32.*expected .*float64"):
        pullback({"a": [V.to(torch.float32), V.sum()]})


# --- argnums ---------------------------------------------------------------------------------------------------------

TAKERS = {
    "grad": session.grad,
    "value_and_grad": lambda fn, argnums: lambda *args: session.value_and_grad(fn, argnums)(*args)[1],
    "jacobian": session.jacobian,
    "jacobian forward": lambda fn, argnums: session.jacobian(fn, argnums, mode="forward"),
    "hessian": session.hessian,
}
NOT_POSITIONS = [
    0.0, "0", "01", b"0", (0, 0.0), (0, "1"), True, False, (0, True), (None, 0), (0, None), [None],
    {0, 1}, {0: 1}, ((0,), 1), np.float64(0), np.bool_(True), np.array([[0]]), torch.tensor([0, 1]), torch.tensor(True),
    neo.LiteTensor(True), neo.LiteTensor(0.0), object(), 1j,
]  # fmt: skip


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("argnums", NOT_POSITIONS, ids=lambda value: re.sub(" at 0x.*>", ">", repr(value)))
def test_argnums_that_is_no_position_is_refused(taker, argnums):
    with pytest.raises(TypeError, match="argnums must be an integer, a tuple of integers, or None"):
        TAKERS[taker](lambda x, y: (x * y).sum(), argnums)(X, V)


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("argnums", [(), [], range(0)], ids=repr)
def test_empty_argnums_is_refused(taker, argnums):
    with pytest.raises(ValueError, match="argnums is empty"):
        TAKERS[taker](lambda x, y: (x * y).sum(), argnums)(X, V)


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("argnums", [2, -3, (0, 2)], ids=repr)
def test_argnums_beyond_the_arguments_is_refused(taker, argnums):
    with pytest.raises(TypeError, match="argnums names argument"):
        TAKERS[taker](lambda x, y: (x * y).sum(), argnums)(X, V)


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("argnums", [(0, 0), (1, -1), [0, 1, -2]], ids=repr)
def test_argnums_twice_is_refused(taker, argnums):
    with pytest.raises(ValueError, match="names an argument twice"):
        TAKERS[taker](lambda x, y: (x * y).sum(), argnums)(X, V)


@pytest.mark.parametrize("taker", ["grad", "value_and_grad", "jacobian", "jacobian forward"])
def test_integers_of_numpy_and_torch_are_positions(taker):
    fn = lambda x, y: (x * x * y).sum()  # noqa: E731
    for one in (np.int64(1), np.int32(-1), np.uint8(1), torch.tensor(1), neo.LiteTensor(1)):
        torch.testing.assert_close(TAKERS[taker](fn, one)(X, V).data, X.data**2)
    for several in ((np.int64(1), 0), [1, 0], np.array([1, 0]), range(1, -1, -1)):
        got = TAKERS[taker](fn, several)(X, V)
        assert isinstance(got, tuple)
        torch.testing.assert_close(got[0].data, X.data**2)
        torch.testing.assert_close(got[1].data, 2 * X.data * V.data)
    (only,) = TAKERS[taker](fn, (0,))(X, V)
    torch.testing.assert_close(only.data, 2 * X.data * V.data)
