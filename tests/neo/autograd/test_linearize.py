"""linearize: one run of fn, and a linear map that may be applied, and differentiated, many times."""

from __future__ import annotations

import pytest
import torch

import neo
from neo.autograd import session
from neo.errors import NeoError


def number(value):
    return neo.LiteTensor(torch.as_tensor(value, dtype=torch.float64))


X, V, U = number([0.5, -1.0, 2.0]), number([1.0, 2.0, -3.0]), number([0.1, 0.2, 0.3])


def close(got, expected):
    torch.testing.assert_close(got.data, torch.as_tensor(expected, dtype=torch.float64))


def fn(tree, y):
    return {"a": torch.sin(tree["x"]) * y, "b": (tree["x"] * tree["k"]).sum()}


def test_push_is_the_jvp_and_fn_runs_once():
    runs = []

    def counted(tree, y):
        runs.append(1)
        return fn(tree, y)

    out, push = session.linearize(counted, {"x": X, "k": 2.0}, V)
    for dots in (({"x": V, "k": None}, U), ({"x": U, "k": None}, V)):
        expected_out, expected = session.jvp(fn, ({"x": X, "k": 2.0}, V), dots)
        got = push(*dots)
        close(out["a"], expected_out["a"].data)
        close(got["a"], expected["a"].data)
        close(got["b"], expected["b"].data)
    assert len(runs) == 1


def test_push_is_linear_in_its_tangents():
    _, push = session.linearize(lambda x, y: torch.exp(x) * y**2, X, V)
    close(push(V * 2 + U, U * 3), 2 * push(V, U * 0).data + push(U, U * 0).data + 3 * push(U * 0, U).data)
    close(push(X * 0, V * 0), [0.0, 0.0, 0.0])


def test_push_is_differentiable_in_its_tangents_outside_of_the_first_session():
    _, push = session.linearize(lambda x: x**3, X)
    close(session.grad(lambda v: push(v), argnums=0)(V), 3 * X.data**2)
    assert session.grad(lambda x: push(V) * x, argnums=0)(X).tolist() == pytest.approx(
        (3 * X.data**2 * V.data).tolist()
    )
    # push was made outside: the arguments of fn are constants to a session opened later
    close(session.jacobian(push, mode="forward")(V), torch.diag(3 * X.data**2))


def test_push_is_differentiable_in_the_arguments_by_a_session_around():
    def around(x, v):
        _, push = session.linearize(lambda x: x**3, x)
        return push(v) + push(v * v)

    gx, gv = session.grad(around, argnums=(0, 1))(X, V)
    close(gx, 6 * X.data * (V.data + V.data**2))
    close(gv, 3 * X.data**2 * (1 + 2 * V.data))
    assert session.gradcheck(around, (X, V), order=2)


def test_linearize_of_linearize_and_of_a_gradient():
    first = lambda x: session.linearize(torch.sin, x)[1](V)  # noqa: E731
    _, push = session.linearize(first, X)
    close(push(U), -X.data.sin() * V.data * U.data)
    _, push = session.linearize(session.grad(lambda x: (x**4).sum(), argnums=0), X)
    close(push(V), 12 * X.data**2 * V.data)


def test_aux_comes_beside_out_and_push():
    out, push, aux = session.linearize(lambda x: (x * x, "aux"), X, has_aux=True)
    close(out, X.data**2)
    close(push(V), 2 * X.data * V.data)
    assert aux == "aux"


@pytest.mark.parametrize(
    ("dots", "error", "message"),
    [
        ((V,), TypeError, "was given 2 arguments, and push 1 tangents"),
        ((V, V, V), TypeError, "push 3 tangents"),
        (({"x": V}, V), ValueError, r"tangent of argument 0 must mirror it: it lacks \['k'\]"),
        (
            ({"x": V[:2], "k": None}, V),
            ValueError,
            r"tangent of argument 0\['x'\] is .* expected shape \(3,\)",
        ),
    ],
)
def test_tangents_that_do_not_fit_are_named(dots, error, message):
    _, push = session.linearize(fn, {"x": X, "k": 2.0}, V)
    with pytest.raises(error, match=message):
        push(*dots)


def test_has_aux_everywhere():
    pair = lambda x: ((x**3).sum(), {"seen": x.data * 2})  # noqa: E731
    out, pullback, aux = session.vjp(pair, X, has_aux=True)
    close(pullback(torch.tensor(1.0, dtype=torch.float64))[0], 3 * X.data**2)
    out, tangent, aux = session.jvp(pair, (X,), (V,), has_aux=True)
    close(out, (X.data**3).sum())
    close(tangent, (3 * X.data**2 * V.data).sum())
    close(aux["seen"], 2 * X.data)
    product, aux = session.hvp(pair, X, V, has_aux=True)
    close(product, 6 * X.data * V.data)
    close(aux["seen"], 2 * X.data)
    for transform in (session.vjp, session.linearize):
        with pytest.raises(TypeError, match="has_aux=True expects fn to return"):
            transform(lambda x: x * x, X, has_aux=True)
    with pytest.raises(TypeError, match="has_aux=True expects fn to return"):
        session.jvp(lambda x: x * x, (X,), (V,), has_aux=True)


def test_aux_of_an_inner_transform_belongs_to_the_session_around():
    def around(x):
        _, tangent, aux = session.jvp(lambda x: (x * x, torch.sin(x)), (x,), (V,), has_aux=True)
        return tangent + aux

    close(session.grad(around, argnums=0)(X), 2 * V.data + X.data.cos())


def test_linearized_function_survives_an_exception_in_push():
    _, push = session.linearize(lambda x: x * x, X)
    with pytest.raises((ValueError, NeoError)):
        push(V.data[:1])
    close(push(V), 2 * X.data * V.data)


def test_everything_is_exported():
    for name in ("vjp", "jvp", "linearize", "jacobian", "hessian", "hvp"):
        assert getattr(neo, name) is getattr(session, name)
