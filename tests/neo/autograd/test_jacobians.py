"""Jacobians and Hessians of pytrees, by rows and by columns: against torch.func, each other and closed forms."""

from __future__ import annotations

import optree
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neo
from neo.autograd import TapeContext, session

MODES = ["reverse", "forward"]


def number(value):
    return neo.LiteTensor(torch.as_tensor(value, dtype=torch.float64))


X = number([0.5, -1.0, 2.0])
W = number([[1.0, -0.5, 2.0], [0.3, 0.7, -1.1]])
B = number([0.2, -0.4])


def data(tree):
    return optree.tree_map(lambda leaf: leaf.data, tree)


def agree(got, expected):
    assert optree.tree_structure(got) == optree.tree_structure(expected)
    for ours, theirs in zip(optree.tree_leaves(got), optree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(ours.data, theirs, rtol=1e-10, atol=1e-12)


def layers(params, x):
    """A tree in, a tree out; some outputs do not depend on some inputs."""
    hidden = torch.tanh(params["w"] @ x + params["more"][0])
    return {"hidden": hidden, "energy": (params["w"].sum() ** 3, [x * x])}


PARAMS = {"w": W, "more": [B]}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("argnums", [0, 1, (0, 1), (1, 0), (-1,)])
def test_jacobian_is_nested_as_torch_func_has_it(mode, argnums):
    theirs = torch.func.jacrev(layers, argnums=argnums)(data(PARAMS), X.data)
    agree(session.jacobian(layers, argnums, mode=mode)(PARAMS, X), theirs)


@pytest.mark.parametrize("argnums", [0, (0, 1)])
@pytest.mark.parametrize("outer", MODES)
def test_hessian_is_nested_as_torch_func_has_it(argnums, outer):
    theirs = torch.func.jacrev(torch.func.jacrev(layers, argnums), argnums)(data(PARAMS), X.data)
    agree(session.hessian(layers, argnums, mode=outer)(PARAMS, X), theirs)


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("second", MODES)
@pytest.mark.parametrize("third", MODES)
def test_modes_agree_at_any_nesting(first, second, third):
    def fn(x):
        return (torch.sin(x) * x.sum()).prod() + torch.exp(x[0] * x[1]) * x[2] ** 2

    got = session.jacobian(session.jacobian(session.jacobian(fn, mode=first), mode=second), mode=third)(X)
    expected = torch.func.jacrev(torch.func.jacrev(torch.func.jacrev(fn)))(X.data)
    torch.testing.assert_close(got.data, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_jacobian_is_differentiable_by_sessions_around(mode):
    # Σ of ∂(x³)/∂x is Σ 3 x²
    total = lambda x: session.jacobian(lambda x: x**3, mode=mode)(x).sum()  # noqa: E731
    torch.testing.assert_close(session.grad(total, argnums=0)(X).data, 6 * X.data)
    _, tangent = session.jvp(total, (X,), (X,))
    torch.testing.assert_close(tangent.data, (6 * X.data**2).sum())
    assert session.gradcheck(total, (X,), order=2)


@pytest.mark.parametrize("mode", MODES)
def test_closed_over_argument_is_a_constant_to_the_jacobian_and_not_to_the_session_around(mode):
    # d/dx [x · d/dy (x y)] at y = x is 2 x
    fn = lambda x: x * session.jacobian(lambda y: x * y, mode=mode)(x)  # noqa: E731
    assert session.grad(fn, argnums=0)(number(3.0)).item() == 6.0


@pytest.mark.parametrize("mode", MODES)
def test_aux_comes_back_untouched(mode):
    seen = object()
    jacobian, aux = session.jacobian(lambda x: (x * x, {"seen": seen}), has_aux=True, mode=mode)(X)
    torch.testing.assert_close(jacobian.data, torch.diag(2 * X.data))
    assert aux["seen"] is seen
    hessian, aux = session.hessian(lambda x: ((x**3).sum(), seen), has_aux=True, mode=mode)(X)
    torch.testing.assert_close(hessian.data, torch.diag(6 * X.data))
    assert aux is seen


@pytest.mark.parametrize("mode", MODES)
def test_constants_in_a_differentiated_argument_have_none(mode):
    got = session.jacobian(lambda t: t["x"] * t["k"] * t["c"], mode=mode)(
        {"x": X, "k": 2.0, "c": torch.ones(3, dtype=torch.float64)}
    )
    assert got["k"] is None
    assert got["c"] is None
    torch.testing.assert_close(got["x"].data, 2 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("mode", MODES)
def test_jacobian_without_argnums_is_keyed_by_tensor(mode):
    got = session.jacobian(lambda a, b: a * b, None, mode=mode)(X, number([1.0, 2.0, 3.0]))
    assert next(iter(got)) is X
    torch.testing.assert_close(got[X].data, torch.diag(torch.tensor([1.0, 2.0, 3.0]).double()))


@pytest.mark.parametrize("mode", MODES)
def test_keyword_arguments_are_constants(mode):
    got = session.jacobian(lambda x, scale: x * scale, mode=mode)(X, scale=X)
    torch.testing.assert_close(got.data, torch.diag(X.data))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 2), (2, 0, 3)])
def test_shapes_without_entries_and_without_dims(mode, shape):
    x = number(torch.ones(shape))
    got = session.jacobian(lambda x: {"same": x * 2, "sum": x.sum()}, mode=mode)(x)
    assert got["same"].shape == (*shape, *shape)
    assert got["sum"].shape == shape


@pytest.mark.parametrize("mode", MODES)
def test_dtypes_of_a_block_are_those_of_what_made_it(mode):
    x = neo.LiteTensor([1.0, 2.0], dtype=torch.float32)
    got = session.jacobian(lambda x: x.to(torch.float64) * 2, mode=mode)(x)
    assert got.dtype is (torch.float32 if mode == "reverse" else torch.float64)


@pytest.mark.parametrize("mode", MODES)
def test_output_that_depends_on_nothing_has_zeros(mode):
    assert not session.jacobian(lambda x: W, mode=mode)(X).data.any()
    assert session.jacobian(lambda x: W, mode=mode)(X).shape == (2, 3, 3)


def test_output_that_is_the_input_has_the_identity_once_per_place():
    got = session.jacobian(lambda x: (x, x), mode="reverse")(X)
    assert all(torch.equal(block.data, torch.eye(3, dtype=torch.float64)) for block in got)
    got = session.jacobian(lambda x: (x, x), mode="forward")(X)
    assert all(torch.equal(block.data, torch.eye(3, dtype=torch.float64)) for block in got)


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 3), columns=st.integers(1, 3), seed=st.integers(0, 99))
def test_rows_and_columns_agree_on_random_shapes(rows, columns, seed):
    draw = torch.Generator().manual_seed(seed)
    w = number(torch.randn(rows, columns, generator=draw, dtype=torch.float64))
    x = number(torch.randn(columns, generator=draw, dtype=torch.float64))
    fn = lambda w, x: (torch.tanh(w @ x), (w * w).sum(0))  # noqa: E731
    one, other = (session.jacobian(fn, (0, 1), mode=mode)(w, x) for mode in MODES)
    agree(one, data(other))


@pytest.mark.parametrize("mode", ["both", None, 0, "Reverse"])
def test_unknown_mode_is_refused(mode):
    with pytest.raises(ValueError, match='mode must be "reverse" or "forward"'):
        session.jacobian(lambda x: x, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_failure_inside_fn_leaves_no_tape(mode):
    def fn(x):
        raise KeyError("fn")

    with pytest.raises(KeyError):
        session.jacobian(fn, mode=mode)(X)
    assert TapeContext.current() is None


@pytest.mark.parametrize("mode", MODES)
def test_integer_argument_and_integer_output_are_refused(mode):
    with pytest.raises(TypeError, match=r"jacobian\(.*\): argument 0 is torch.int64"):
        session.jacobian(lambda n: n * 2.0, mode=mode)(neo.LiteTensor(3))
    with pytest.raises(TypeError, match=r"output is torch\.bool"):
        session.jacobian(lambda x: x > 0, mode=mode)(X)
