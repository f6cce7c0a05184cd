"""Transforms in transforms: what the tests of HIPS/autograd, torch.func and JAX try, against torch and closed forms."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F

import neo
from neo.autograd import TapeContext, session


def number(value):
    return neo.LiteTensor(torch.as_tensor(value, dtype=torch.float64))


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def d(fn, argnums=0):
    return session.grad(fn, argnums=argnums)


def close(got, expected):
    torch.testing.assert_close(got.data, torch.as_tensor(expected, dtype=torch.float64))


X, V, U = number([0.5, -1.0, 2.0]), number([1.0, 2.0, -3.0]), number([0.1, 0.2, 0.3])


# Each gives u ↦ f″(x)·(v∘u) of f = Σ x⁴ / 12 another way: x² v at u = 1.
def quartic(x):
    return (x**4).sum() / 12


def push(fn, x, v):
    return session.jvp(fn, (x,), (v,))[1]


def pull(fn, x, v):
    return session.vjp(fn, x)[1](v)[0]


def linear(fn, x, v):
    return session.linearize(fn, x)[1](v)


def times_jacobian(mode):
    return lambda fn, x, v: session.jacobian(fn, mode=mode)(x) @ v


PRODUCTS = {  # ways to multiply a symmetric Jacobian with a vector
    "jvp": push,
    "vjp": pull,
    "linearize": linear,
    "rows": times_jacobian("reverse"),
    "columns": times_jacobian("forward"),
}
GRADIENTS = {
    "grad": lambda fn: d(fn),
    "vjp": lambda fn: lambda x: session.vjp(fn, x)[1](torch.ones((), dtype=torch.float64))[0],
    "rows": lambda fn: session.jacobian(fn),
    "columns": lambda fn: session.jacobian(fn, mode="forward"),
    "checkpointed": lambda fn: d(session.checkpoint(fn)),
}


@pytest.mark.parametrize(("gradient", "product"), list(itertools.product(GRADIENTS, PRODUCTS)))
def test_every_second_derivative_agrees_and_is_differentiable(gradient, product):
    second = lambda x, v: PRODUCTS[product](GRADIENTS[gradient](quartic), x, v)  # noqa: E731
    close(second(X, V), X.data**2 * V.data)
    gx, gv = d(lambda x, v: (second(x, v) * U).sum(), (0, 1))(X, V)
    close(gx, 2 * X.data * V.data * U.data)
    close(gv, X.data**2 * U.data)
    close(push(lambda x: second(x, V), X, U), 2 * X.data * V.data * U.data)


@pytest.mark.parametrize("product", PRODUCTS)
def test_nested_perturbations_are_not_confused(product):
    # x ∘ D_y[x ∘ y](x)·v = x² v, whose derivative along u is 2 x u v; the inner x is a constant to the inner level
    inner = lambda x, v: x * PRODUCTS[product](lambda y: x * y, x, v)  # noqa: E731
    close(inner(X, V), X.data**2 * V.data)
    for outer in (push, linear):
        close(outer(lambda x: inner(x, V), X, U), 2 * X.data * U.data * V.data)
    close(d(lambda x: (inner(x, V) * U).sum())(X), 2 * X.data * U.data * V.data)


def test_pullback_is_differentiable_in_its_cotangent_alone_outside_of_its_session():
    close(d(lambda v: pull(torch.sin, X, v))(V), X.data.cos())
    _, pullback = session.vjp(d(lambda x: -torch.cos(x)), X)
    close(d(lambda v: pullback(v)[0])(V), X.data.cos())
    close(push(lambda v: pullback(v)[0], V, U), X.data.cos() * U.data)


def test_what_escapes_from_a_session_is_a_constant():
    escaped = []

    def leaking(x):
        escaped.append(torch.sin(x))
        return escaped[-1]

    session.grad(leaking)(X)
    session.jvp(leaking, (X,), (V,))
    session.jacobian(leaking, mode="forward")(X)
    assert TapeContext.current() is None
    for value in escaped:
        close(value, X.data.sin())
        close(d(lambda x, value=value: x * value)(X), X.data.sin())


def test_gradient_of_a_gradient_in_another_argument():
    fn = lambda x, y: torch.sin(torch.sin(x) + torch.sin(y)).sum()  # noqa: E731
    for first, second, third in itertools.product((0, 1), repeat=3):
        mixed = lambda x, y, a=first, b=second: d(lambda *xy: d(fn, a)(*xy).sum(), b)(x, y).sum()  # noqa: E731
        got = d(mixed, third)(X, V)
        x, y = X.data.clone().requires_grad_(), V.data.clone().requires_grad_()
        level = fn(x, y)
        for position in (first, second, third):
            (level,) = torch.autograd.grad(level.sum(), (x, y)[position], create_graph=True)
        torch.testing.assert_close(got.data, level.detach())


def test_jacobian_products_of_an_asymmetric_map_go_the_right_way():
    fn = lambda a: torch.roll(torch.sin(a), 1, 0)  # noqa: E731
    a, v, t = number(draw(4, 3)), draw(4, 3, seed=1), draw(4, 3, seed=2)
    jacobian = session.jacobian(fn)(a).data
    close(pull(fn, a, v), torch.tensordot(v, jacobian, 2))
    close(push(fn, a, number(t)), torch.tensordot(jacobian, t, 2))


# --- under vmap, and over it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_jacobian_and_hessian_of_every_example(mode):
    batch = number(draw(4, 3))
    fn = lambda x: torch.sin(x) * x.sum()  # noqa: E731
    each = [session.jacobian(fn, mode=mode)(batch[i]).data for i in range(4)]
    close(neo.vmap(session.jacobian(fn, mode=mode))(batch), torch.stack(each))
    loss = lambda x: fn(x).prod()  # noqa: E731
    each = [session.hessian(loss, mode=mode)(batch[i]).data for i in range(4)]
    close(neo.vmap(session.hessian(loss, mode=mode))(batch), torch.stack(each))


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_jacobian_of_a_batched_function_is_block_diagonal(mode):
    batch = number(draw(3, 2))
    jacobian = session.jacobian(neo.vmap(lambda x: torch.sin(x) * x.sum()), mode=mode)(batch)
    expected = torch.func.jacrev(lambda b: torch.sin(b) * b.sum(1, keepdim=True))(batch.data)
    close(jacobian, expected)


def test_linearized_function_pushed_along_a_basis_is_the_jacobian():
    fn = lambda x: torch.sin(x) * x.sum()  # noqa: E731
    _, push_fn = session.linearize(fn, X)
    columns = [push_fn(torch.eye(3, dtype=torch.float64)[i]).data for i in range(3)]
    close(session.jacobian(fn)(X), torch.stack(columns, 1))


def test_gradients_of_each_example_by_functional_call_are_torchs():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    x, y = draw(5, 3), torch.tensor([0, 1, 1, 0, 1])
    params = {name: neo.LiteTensor(p.detach()) for name, p in module.named_parameters()}

    def loss(call, params, x, y):
        return F.cross_entropy(call(module, params, (x[None],)), y[None])

    ours = functools.partial(loss, neo.nn.functional_call)
    ours(params, x[0], y[0])  # the first call looks at numbers
    got = neo.vmap(d(ours), in_dims=(None, 0, 0))(params, neo.LiteTensor(x), y)
    theirs = functools.partial(loss, torch.func.functional_call)
    weights = {name: p.detach() for name, p in module.named_parameters()}
    expected = torch.func.vmap(torch.func.grad(theirs), in_dims=(None, 0, 0))(weights, x, y)
    for name in expected:
        close(got[name], expected[name])


# --- outputs and arguments of odd kinds ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_output_of_another_size_has_its_entries_in_place(mode):
    x = number(draw(2, 4))
    jacobian = session.jacobian(lambda x: x[0, 1:].unsqueeze(-1), mode=mode)(x)
    expected = torch.zeros(3, 1, 2, 4, dtype=torch.float64)
    for i in range(3):
        expected[i, 0, 0, i + 1] = 1
    close(jacobian, expected)
    taken = session.jacobian(lambda x: torch.take(x, torch.tensor([1, 1, 6])), mode=mode)(x)
    assert taken.data.sum((1, 2)).tolist() == [1.0, 1.0, 1.0]
    assert taken.data[1, 0, 1] == 1.0


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_arguments_that_are_not_used_have_zeros_at_every_order(mode):
    fn = lambda x, unused: {"y": (x**2).sum(), "c": V}  # noqa: E731
    jacobian = session.jacobian(fn, argnums=(0, 1), mode=mode)(X, U)
    close(jacobian["y"][0], 2 * X.data)
    assert not jacobian["y"][1].data.any()
    assert not jacobian["c"][0].data.any()
    hessian = session.hessian(lambda x, y: (x**2).sum() + y.sum(), argnums=(0, 1), mode=mode)(X, U)
    close(hessian[0][0], 2 * torch.eye(3))
    assert not any(block.data.any() for block in (hessian[0][1], hessian[1][0], hessian[1][1]))


def test_identity_has_a_derivative_of_one_and_a_second_one_of_zero():
    for fn in (lambda x: x, lambda x: {"x": x}["x"], lambda x: x.reshape(3)):
        close(d(fn)(X), [1.0, 1.0, 1.0])
        close(push(fn, X, V), V.data)
        close(d(lambda x, fn=fn: d(fn)(x) + 0 * x)(X), [0.0, 0.0, 0.0])


def test_one_tensor_in_several_places_is_summed_once_per_place():
    tree = {"a": X, "b": [X, X]}
    fn = lambda t: (t["a"] * t["b"][0] * t["b"][1]).sum()  # noqa: E731
    g = d(fn)(tree)
    for part in (g["a"], *g["b"]):
        close(part, X.data**2)
    close(session.grad(fn)(tree)[X], 3 * X.data**2)
    close(push(fn, tree, {"a": V, "b": [V, V]}), (3 * X.data**2 * V.data).sum())


def test_partials_callables_and_bound_methods_are_functions_like_any_other():
    class Scale:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, x):
            return x * x * self.factor

        def method(self, x):
            return self(x)

    for fn in (functools.partial(torch.mul, U), Scale(3.0), Scale(3.0).method):
        expected = U.data if isinstance(fn, functools.partial) else 6 * X.data
        close(d(fn)(X), expected)
        close(torch.diagonal(session.jacobian(fn, mode="forward")(X)), expected)
        close(session.linearize(fn, X)[1](V), expected * V.data)


def test_decorated_functions_keep_their_names_and_defaults():
    def fn(x, power=2):
        """Doc."""
        return (x**power).sum()

    for transformed in (session.grad(fn), session.jacobian(fn), session.hessian(fn), session.checkpoint(fn)):
        assert (transformed.__name__, transformed.__doc__) == ("fn", "Doc.")
    close(session.jacobian(fn)(X, power=3), 3 * X.data**2)
