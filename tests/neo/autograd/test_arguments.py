"""Rule 1: what is differentiated, and in which shape the gradients come back."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

import neo
from neo.autograd import session


class Pair(NamedTuple):
    weight: neo.LiteTensor
    bias: neo.LiteTensor


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


def test_gradients_come_keyed_by_tensor_in_argument_order():
    x, y, z = number(2.0), number(3.0), number(5.0)
    out, grads = session.value_and_grad(lambda x, y, z: x * y + z * z)(x, y, z)
    assert out.item() == 31.0
    assert [key is given for key, given in zip(grads, (x, y, z), strict=True)] == [True] * 3
    assert [g.item() for g in grads.values()] == [3.0, 2.0, 10.0]


def test_every_floating_leaf_of_any_pytree_is_differentiated_without_argnums():
    a, b, c, d, steps = number(2.0), number(3.0), number(5.0), number(7.0), neo.LiteTensor(4)

    def fn(tree, pair):
        return tree["a"] * tree["more"][0] + pair.weight * pair.bias * tree["steps"]

    grads = session.grad(fn)({"a": a, "more": [b], "steps": steps}, Pair(c, d))
    assert {id(key) for key in grads} == {id(key) for key in (a, b, c, d)}
    assert [grads[key].item() for key in (a, b, c, d)] == [3.0, 2.0, 28.0, 20.0]


@pytest.mark.parametrize("constant", [torch.tensor(3.0), np.float32(3.0), 3.0, 3], ids=type)
def test_plain_values_are_constants(constant):
    x = neo.LiteTensor(2.0)
    out, grads = session.value_and_grad(lambda x, c: x * c)(x, constant)
    assert out.item() == 6.0
    assert list(grads) == [x]
    assert grads[x].item() == 3.0


def test_plain_torch_tensor_that_requires_grad_is_a_constant():
    x, weight = neo.LiteTensor([1.0, 2.0]), torch.tensor([3.0, 4.0], requires_grad=True)
    out, grads = session.value_and_grad(lambda x: torch.sin(x * weight) + weight)(x)
    assert list(grads) == [x]
    assert not out.data.requires_grad
    assert not grads[x].data.requires_grad
    assert weight.grad is None


def test_keyword_arguments_are_constants():
    x, scale = number(2.0), number(3.0)
    grads = session.grad(lambda x, scale: x * scale)(x, scale=scale)
    assert list(grads) == [x]


def test_argnums_int_mirrors_that_argument():
    params = {"w": number([2.0, 3.0]), "layers": [Pair(number(5.0), number(7.0)), 4.0]}

    def fn(params, x):
        pair, factor = params["layers"]
        return (params["w"] * x).sum() * pair.weight + pair.bias * factor

    g = session.grad(fn, argnums=0)(params, number([1.0, 1.0]))
    assert g["w"].tolist() == [5.0, 5.0]
    pair, factor = g["layers"]
    assert isinstance(pair, Pair)
    assert (pair.weight.item(), pair.bias.item(), factor) == (5.0, 4.0, None)


def test_argnums_tuple_gives_a_tuple_and_may_be_negative():
    x, y, z = number(2.0), number(3.0), number(5.0)
    g = session.grad(lambda x, y, z: x * y * z, argnums=(-1, 0))(x, y, z)
    assert isinstance(g, tuple)
    assert [part.item() for part in g] == [6.0, 15.0]
    assert session.grad(lambda x, y, z: x * y * z, argnums=-2)(x, y, z).item() == 10.0


def test_same_object_in_two_slots_keeps_one_gradient_a_slot_with_argnums():
    x = number(3.0)
    g = session.grad(lambda a, b: a * a * b, argnums=(0, 1))(x, x)
    assert [part.item() for part in g] == [18.0, 9.0]


@pytest.mark.parametrize(("argnums", "error"), [(2, TypeError), ((0, -3), TypeError), ((0, -2), ValueError)])
def test_argnums_that_name_no_argument_or_one_twice_are_refused(argnums, error):
    with pytest.raises(error, match="argnums names"):
        session.grad(lambda x, y: x * y, argnums=argnums)(number(1.0), number(2.0))


def test_argnums_on_an_integer_tensor_is_refused():
    with pytest.raises(TypeError, match=r"argument 1\['n'\] is torch.int64"):
        session.grad(lambda x, tree: x * tree["n"], argnums=(0, 1))(number(1.0), {"n": neo.LiteTensor(2)})


def test_nothing_to_differentiate_is_refused_with_what_came():
    with pytest.raises(TypeError, match=r"nothing to differentiate.*Tensor of torch.float32, shape \(2,\)"):
        session.grad(lambda x: x)(torch.ones(2))


def test_leaf_that_the_output_does_not_reach_gets_zeros_of_its_layout():
    x, unused = number(2.0), neo.LiteTensor(torch.ones(2, 3, dtype=torch.float16))
    grads = session.grad(lambda x, unused: x * 2)(x, unused)
    assert grads[unused].shape == (2, 3)
    assert grads[unused].dtype == torch.float16
    assert grads[unused].data.abs().max() == 0
    assert session.grad(lambda x, unused: x * 2, argnums=1)(x, unused).shape == (2, 3)


def test_has_aux_gives_the_rest_untouched():
    x, seen = number(3.0), object()
    (out, aux), g = session.value_and_grad(lambda x: (x * x, {"seen": seen}), argnums=0, has_aux=True)(x)
    assert (out.item(), g.item()) == (9.0, 6.0)
    assert aux["seen"] is seen
    g, aux = session.grad(lambda x: (x * x, "aux"), argnums=0, has_aux=True)(x)
    assert (g.item(), aux) == (6.0, "aux")


def test_has_aux_without_a_pair_is_refused():
    with pytest.raises(TypeError, match="has_aux=True expects fn to return"):
        session.grad(lambda x: x * x, has_aux=True)(number(3.0))


def test_default_cotangent_is_ones_whatever_the_shape():
    x = number([1.0, 2.0, 3.0])
    assert session.grad(lambda x: x * x, argnums=0)(x).tolist() == [2.0, 4.0, 6.0]
    g = session.grad(lambda x: {"a": x * x, "b": (x, x * 3)}, argnums=0)(x)
    assert g.tolist() == [6.0, 8.0, 10.0]


def test_given_cotangent_weighs_the_output():
    x = number([1.0, 2.0])
    for v in (number([10.0, 100.0]), torch.tensor([10.0, 100.0], dtype=torch.float64)):
        g = session.grad(lambda x: x * x, argnums=0, cotangent=v)(x)
        assert g.tolist() == [20.0, 400.0]


@pytest.mark.parametrize(
    ("cotangent", "message"),
    [
        (torch.ones(3, dtype=torch.float64), r"shape \(3,\).*expected \(2,\)"),
        (torch.ones(2), "dtype torch.float32"),
        ((torch.ones(2), torch.ones(2)), "2 leaves, expected 1"),
    ],
)
def test_cotangent_of_another_layout_is_refused(cotangent, message):
    with pytest.raises(ValueError, match=message):
        session.grad(lambda x: x * x, cotangent=cotangent)(number([1.0, 2.0]))


@pytest.mark.parametrize("out", [lambda x: 3.0, lambda x: x.data, lambda x: [], lambda x: (x, 2.0)])
def test_output_that_is_no_lite_tensor_is_refused(out):
    with pytest.raises(TypeError, match="expected fn to return a LiteTensor"):
        session.grad(out)(number(1.0))


def test_integer_output_is_refused():
    with pytest.raises(TypeError, match=r"output is torch.bool"):
        session.grad(lambda x: x > 0)(number(1.0))


def test_generator_function_is_refused():
    def fn(x):
        yield x

    with pytest.raises(TypeError, match="got generator"):
        session.grad(fn)(number(1.0))


def test_complex_operands_are_refused_by_name():
    x = number(2.0)
    with pytest.raises(TypeError, match="complex"):
        neo.LiteTensor(1j)
    for operand in (1j, torch.tensor(1j)):
        with pytest.raises(TypeError, match="mul: complex"):
            session.grad(lambda x, c=operand: x * c)(x)
