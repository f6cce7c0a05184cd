"""Random expressions of the op library, at first and second order, against torch.autograd."""

import warnings

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import neo
from neo.autograd import session

# Smooth everywhere, and tame: what goes in stays in [-3, 3] through tanh where it could blow up.
UNARY = [
    torch.sin,
    torch.cos,
    torch.tanh,
    torch.exp,
    torch.neg,
    torch.square,
    lambda x: torch.sqrt(torch.square(x) + 1),
    lambda x: torch.log1p(torch.square(x)),
    lambda x: torch.reciprocal(torch.square(x) + 1),
    lambda x: x * 0.5 + 1.5,
    lambda x: 2.0 - x,
    lambda x: 1.0 / (x * x + 2.0),
    lambda x: (x * x + 1.0) ** 1.5,
    lambda x: 2.0**x,
]
BINARY = [
    torch.add,
    torch.sub,
    torch.mul,
    lambda x, y: x / (y * y + 1),
    lambda x, y: (x * x + 1) ** torch.tanh(y),
]
REDUCTIONS = [
    lambda x: x.sum(),
    lambda x: x.mean(),
    lambda x: x.sum(dim=-1, keepdim=True) if x.ndim else x,
    lambda x: x.mean(dim=0) if x.ndim else x,
]
SHAPES = [(), (3,), (2, 3), (1, 3), (2, 1)]


@st.composite
def expressions(draw, depth=3):
    """A function of (leaves) built of the ops above."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        index = draw(st.integers(0, 1))
        return lambda leaves: leaves[index]
    kind = draw(st.sampled_from(["unary", "unary", "binary", "binary", "reduction"]))
    left = draw(expressions(depth=depth - 1))
    if kind == "binary":
        op, right = draw(st.sampled_from(BINARY)), draw(expressions(depth=depth - 1))
        return lambda leaves: torch.tanh(op(left(leaves), right(leaves)))
    op = draw(st.sampled_from(UNARY if kind == "unary" else REDUCTIONS))
    return lambda leaves: torch.tanh(op(left(leaves)))


@settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)
@given(expressions(), st.sampled_from(SHAPES), st.sampled_from(SHAPES), st.integers(0, 2**16))
def test_random_expressions_agree_with_torch_at_both_orders(expression, shape_x, shape_y, seed):
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (shape_x, shape_y)]

    def penalty(gradients):
        return sum((g * g).sum() for g in gradients)

    leaves = [value.clone().requires_grad_() for value in values]
    out = expression(leaves)
    anchored = out.sum() + sum((leaf * 0).sum() for leaf in leaves)
    first = torch.autograd.grad(anchored, leaves, create_graph=True)
    target = penalty(first) + sum((leaf * 0).sum() for leaf in leaves)
    second = torch.autograd.grad(target, leaves)

    def loss(x, y):
        return expression([x, y]).sum()

    lite = [neo.LiteTensor(value) for value in values]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, got_first = session.value_and_grad(loss, argnums=(0, 1))(*lite)
        got_second = session.grad(
            lambda x, y: penalty(session.grad(loss, argnums=(0, 1))(x, y)), argnums=(0, 1)
        )(*lite)

    torch.testing.assert_close(value.data, out.detach().sum())
    for got, expected in zip((*got_first, *got_second), (*first, *second), strict=True):
        torch.testing.assert_close(got.data, expected.detach(), rtol=1e-7, atol=1e-9)
