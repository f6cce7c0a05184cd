"""Rule 7: broadcasting, dtypes and devices follow torch; gradients have the layout of their input."""

import pytest
import torch

import neo
from neo import autograd
from neo.autograd import session
from neo.functions import function

SHAPES = [((3,), (3,))]
SHAPES += [
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((), (2, 3)),
    ((2, 3), ()),
    ((), ()),
    ((0, 3), (1, 3)),
    ((0,), (1,)),
]
OPERATORS = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
}


def tensors(shapes, dtypes=(torch.float64, torch.float64)):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5).to(dtype)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]


def torch_gradients(fn, values):
    leaves = [value.clone().requires_grad_() for value in values]
    out = fn(*leaves)
    return out, torch.autograd.grad(out, leaves, torch.ones_like(out))


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_of_broadcast_operands_agree_with_torch(name, shapes):
    values = tensors(shapes)
    out, expected = torch_gradients(OPERATORS[name], values)
    got, grads = session.value_and_grad(OPERATORS[name], argnums=(0, 1))(*map(neo.LiteTensor, values))
    torch.testing.assert_close(got.data, out.detach())
    for g, e in zip(grads, expected, strict=True):
        torch.testing.assert_close(g.data, e)


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float32, torch.float64),
        (torch.float64, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2, 3), (3,)), ((), (3,))], ids=str)
def test_gradients_of_promoted_operands_have_the_dtype_of_their_input(dtypes, shapes):
    values = tensors(shapes, dtypes)
    out, expected = torch_gradients(OPERATORS["mul"], values)
    got, grads = session.value_and_grad(OPERATORS["mul"], argnums=(0, 1))(*map(neo.LiteTensor, values))
    assert got.dtype == out.dtype
    for g, e in zip(grads, expected, strict=True):
        assert (g.dtype, g.shape) == (e.dtype, e.shape)
        torch.testing.assert_close(g.data, e, rtol=2e-2, atol=2e-2)


def test_second_order_through_a_broadcast_agrees_with_torch():
    x, y = tensors(((2, 3), (3,)))
    leaf_x, leaf_y = x.clone().requires_grad_(), y.clone().requires_grad_()
    (first,) = torch.autograd.grad((leaf_x / leaf_y**2).sum(), leaf_y, create_graph=True)
    expected = torch.autograd.grad((first**2).sum(), (leaf_x, leaf_y))

    def outer(x, y):
        g = session.grad(lambda y: (x / y**2).sum(), argnums=0)(y)
        return (g**2).sum()

    got = session.grad(outer, argnums=(0, 1))(neo.LiteTensor(x), neo.LiteTensor(y))
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g.data, e)


def test_integer_operand_is_a_constant_and_promotes():
    x, n = neo.LiteTensor([1.0, 2.0]), neo.LiteTensor([3, 4])
    out, grads = session.value_and_grad(lambda x, n: x * n)(x, n)
    assert list(grads) == [x]
    assert grads[x].tolist() == [3.0, 4.0]
    assert out.dtype == torch.float32


def test_zero_size_tensors_have_zero_size_gradients():
    x = neo.LiteTensor(torch.zeros(0, 4))
    g = session.grad(lambda x: session.grad(lambda x: (x * x * x).sum(), argnums=0)(x), argnums=0)(x)
    assert g.shape == (0, 4)


def test_gradient_of_an_expanded_leaf_is_dense():
    x = neo.LiteTensor(torch.ones(1).expand(3))
    g = session.grad(lambda x: x * torch.arange(3.0), argnums=0)(x)
    assert g.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("order", [lambda a, b: (a, b), lambda a, b: (b, a)], ids=["cpu first", "meta first"])
def test_mixed_devices_raise_torchs_error_with_the_name_of_the_op(order):
    class Scaled(autograd.Policy):
        def forward(self, x, y):
            return torch.mul(x, y)

    here, there = neo.LiteTensor(torch.ones(3)), neo.LiteTensor(torch.ones(3, device="meta"))
    for op, name in ((torch.add, "add"), (function(Scaled), "Scaled")):
        with pytest.raises(RuntimeError, match=rf"^{name}: .*device"):
            op(*order(here, there))


def test_torchs_own_errors_carry_the_name_of_the_op_and_keep_their_type():
    with pytest.raises(RuntimeError, match=r"^mul: The size of tensor a"):
        neo.LiteTensor([1.0, 2.0]) * neo.LiteTensor([1.0, 2.0, 3.0])
    with pytest.raises(RuntimeError, match=r"^matmul: "):
        neo.LiteTensor([[1.0, 2.0]]) @ neo.LiteTensor([[1.0, 2.0]])


def test_gradients_follow_a_device_of_their_own():
    x, y = neo.LiteTensor(torch.ones(2, 3, device="meta")), neo.LiteTensor(torch.ones(3, device="meta"))
    g = session.grad(lambda x, y: (x * y).sum(), argnums=(0, 1))(x, y)
    assert [(part.device.type, tuple(part.shape)) for part in g] == [("meta", (2, 3)), ("meta", (3,))]
