"""Rule 2: a session differentiates its own argument slot; perturbations are never confused."""

import pytest
import torch

import neo
from neo.autograd import session


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


def d(fn):
    return session.grad(fn, argnums=0)


def test_perturbations_are_not_confused():
    x = number(1.0)
    assert d(lambda x: x * d(lambda y: x + y)(x))(x).item() == 1.0


def test_perturbations_are_not_confused_in_a_product_of_shared_slots():
    # d/dx [x * d/dy (x y)] at y = x: the inner derivative is x, so x² is differentiated
    x = number(3.0)
    assert d(lambda x: x * d(lambda y: x * y)(x))(x).item() == 6.0
    # both slots share one object: d/dy (y y) = 2 y, then x * 2 x
    assert d(lambda x: x * d(lambda y: y * y)(x))(x).item() == 12.0


def test_perturbations_are_not_confused_over_three_levels():
    # d/dx [x d/dy (y d/dz (x + y + z))] at z = y = x is d/dx [x d/dy y] = 1
    x = number(2.0)
    assert d(lambda x: x * d(lambda y: y * d(lambda z: x + y + z)(y))(x))(x).item() == 1.0
    # with products: d/dz (x y z) = x y; d/dy (x y²) = 2 x y; d/dx of x * 2 x y at y = x, all through x, is 6 x²
    assert d(lambda x: x * d(lambda y: y * d(lambda z: x * y * z)(y))(x))(x).item() == 6 * 4.0


def test_closed_over_use_of_the_argument_is_a_constant():
    x = number(3.0)
    assert d(lambda y: x * y)(x).item() == 3.0
    assert d(lambda y: x * x)(x).item() == 0.0
    out, grads = session.value_and_grad(lambda y: x * y)(x)
    assert out.item() == 9.0
    assert grads[x].item() == 3.0


def test_argument_is_a_fresh_tensor_on_the_same_data():
    x = number([1.0, 2.0])
    seen = []
    session.grad(lambda y: seen.append(y) or y * 2)(x)
    assert seen[0] is not x
    assert seen[0].data.data_ptr() == x.data.data_ptr()


def test_closed_over_tensor_of_an_outer_session_keeps_its_outer_derivative():
    # d/dx [d/dy (x y²)] = d/dx (2 x y) with y a constant: 2 y
    x, y = number(3.0), number(5.0)
    assert d(lambda x: d(lambda y: x * y * y)(y))(x).item() == 10.0


def test_object_passed_twice_gets_the_sum_under_its_one_key():
    x = number(3.0)
    out, grads = session.value_and_grad(lambda a, b: a * a * b)(x, x)
    assert out.item() == 27.0
    assert list(grads) == [x]
    assert grads[x].item() == 27.0


def test_object_passed_twice_in_a_nested_session_has_a_differentiable_sum():
    x = number(2.0)
    assert d(lambda x: session.grad(lambda a, b: a * a * b)(x, x)[x])(x).item() == 6 * 2.0


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_nesting_gives_every_derivative_of_sin(order):
    x = number([0.3, -1.2, 2.5])
    fn = torch.sin
    for _ in range(order):
        fn = d(fn)
    expected = [torch.cos, lambda v: -torch.sin(v), lambda v: -torch.cos(v), torch.sin, torch.cos][order - 1](
        x.data
    )
    torch.testing.assert_close(fn(x).data, expected, rtol=0, atol=1e-12)


def test_two_lite_tensors_on_one_torch_tensor_are_two_variables():
    shared = torch.tensor([2.0, 3.0], dtype=torch.float64)
    x, y = neo.LiteTensor(shared), neo.LiteTensor(shared)
    grads = session.grad(lambda x, y: x * x * y)(x, y)
    assert grads[x].tolist() == [8.0, 18.0]
    assert grads[y].tolist() == [4.0, 9.0]


@pytest.mark.parametrize("constant_first", [True, False])
def test_the_torch_tensor_behind_the_argument_is_a_constant_at_both_orders(constant_first):
    # c / x and x / c with c the very tensor that x holds
    x = number(2.0)
    ratio = (lambda x: torch.div(x.data, x)) if constant_first else (lambda x: torch.div(x, x.data))
    first, second = (-0.5, 0.5) if constant_first else (0.5, 0.0)
    assert d(ratio)(x).item() == first
    assert d(d(ratio))(x).item() == second


def test_argument_that_is_the_output_has_the_cotangent_as_gradient():
    x = number([1.0, 2.0])
    assert d(lambda x: x)(x).tolist() == [1.0, 1.0]
    assert d(lambda x: {"a": x, "b": x})(x).tolist() == [2.0, 2.0]


def test_inner_gradient_that_ignores_the_outer_argument_is_a_constant():
    x, y = number(2.0), number(3.0)
    assert d(lambda x: x * d(lambda y: y * y)(y))(x).item() == 6.0


def test_pullback_called_in_a_later_session_treats_its_primals_as_constants():
    x, v = number(3.0), number(5.0)
    _, pullback = session.vjp(lambda x: x * x * x, x)
    assert d(lambda v: v * pullback(v)[0])(v).item() == 2 * 5.0 * 27.0
    assert d(lambda x: x * pullback(x)[0])(x).item() == 2 * 3.0 * 27.0
