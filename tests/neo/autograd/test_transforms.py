"""vjp, jvp, hvp, jacobian, hessian, stop_gradient: against closed forms and torch."""

import pytest
import torch

import neo
from neo.autograd import session
from tests.neo.autograd.policies import affine, cube, sincos, square


def number(value):
    return neo.LiteTensor(torch.as_tensor(value, dtype=torch.float64))


def d(fn):
    return session.grad(fn, argnums=0)


def close(got, expected):
    torch.testing.assert_close(got.data, torch.as_tensor(expected, dtype=torch.float64))


X = number([0.5, -1.0, 2.0])
V = number([1.0, 2.0, -3.0])


def test_vjp_gives_the_output_and_a_gradient_for_each_argument():
    out, pullback = session.vjp(lambda x, y, c: x * y * c, X, V, 2.0)
    close(out, [1.0, -4.0, -12.0])
    gx, gy, gc = pullback(number([1.0, 10.0, 100.0]))
    close(gx, [2.0, 40.0, -600.0])
    close(gy, [1.0, -20.0, 400.0])
    assert gc is None


def test_pullback_may_be_called_many_times_and_gives_the_same():
    _, pullback = session.vjp(cube, X)
    for scale in (1.0, 2.0, 1.0):
        close(pullback(torch.full((3,), scale, dtype=torch.float64))[0], 3 * scale * X.data**2)


def test_several_pullbacks_of_one_function_do_not_mix():
    pullbacks = [session.vjp(lambda x, k=k: x**k, X)[1] for k in (2, 3)]
    ones = torch.ones(3, dtype=torch.float64)
    for k, pullback in zip((3, 2), reversed(pullbacks), strict=True):
        close(pullback(ones)[0], k * X.data ** (k - 1))


def test_pullback_of_a_tree_takes_a_tree_of_cotangents():
    _, pullback = session.vjp(lambda tree: {"s": sincos(tree["x"])[0], "q": [square(tree["x"])]}, {"x": X})
    (g,) = pullback({"s": V, "q": [X]})
    close(g["x"], V.data * X.data.cos() + 2 * X.data**2)
    with pytest.raises(ValueError, match="leaves"):
        pullback(V)
    with pytest.raises(TypeError, match="got None"):
        pullback(None)


def test_pullback_is_differentiable_in_its_cotangent_and_in_the_primal():
    def fn(x, v):
        _, pullback = session.vjp(cube, x)
        return (pullback(v)[0] * v).sum()  # 3 x² v²

    gx, gv = session.grad(fn, argnums=(0, 1))(X, V)
    close(gx, 6 * X.data * V.data**2)
    close(gv, 6 * X.data**2 * V.data)


def test_vjp_of_nothing_floating_is_refused():
    with pytest.raises(TypeError, match="nothing to differentiate"):
        session.vjp(lambda n: n, neo.LiteTensor(3))


def test_jvp_is_the_directional_derivative():
    out, tangent = session.jvp(lambda x, y: torch.sin(x) * y, (X, V), (V, X))
    close(out, X.data.sin() * V.data)
    close(tangent, X.data.cos() * V.data * V.data + X.data.sin() * X.data)


def test_jvp_of_a_tree_with_constants_and_unreached_arguments():
    _, tangent = session.jvp(
        lambda t, n, unused: (t["a"] * n, square(t["a"])), ({"a": X}, 3, V), ({"a": V}, None, V)
    )
    close(tangent[0], 3 * V.data)
    close(tangent[1], 2 * X.data * V.data)


def test_jvp_nested_in_a_session_is_differentiable():
    # d/dx of 3 x² v is 6 x v
    close(d(lambda x: session.jvp(cube, (x,), (V,))[1])(X), 6 * X.data * V.data)
    # d/dv is 3 x²
    close(d(lambda v: session.jvp(cube, (X,), (v,))[1])(V), 3 * X.data**2)


def test_jvp_of_jvp_is_the_second_directional_derivative():
    _, second = session.jvp(lambda x: session.jvp(torch.sin, (x,), (V,))[1], (X,), (V,))
    close(second, -X.data.sin() * V.data**2)


def test_hvp_has_the_structure_of_its_vectors_and_agrees_with_the_hessian():
    def fn(w, b):
        return (torch.tanh(w * b["b"]) * w * b["b"]).sum()

    hw, hb = session.hvp(fn, (X, {"b": V}), (V, {"b": X}))
    assert set(hb) == {"b"}
    x, y = X.data.clone().requires_grad_(), V.data.clone().requires_grad_()
    first = torch.autograd.grad((torch.tanh(x * y) * x * y).sum(), (x, y), create_graph=True)
    expected = torch.autograd.grad(first, (x, y), (V.data, X.data))
    close(hw, expected[0])
    close(hb["b"], expected[1])
    close(session.hvp(lambda x: cube(x).sum(), X, V), 6 * X.data * V.data)


def test_hvp_nested_in_a_session_is_differentiable():
    close(d(lambda x: session.hvp(lambda x: (x**4).sum(), x, V))(X), 24 * X.data * V.data)


def test_hvp_of_a_linear_function_is_zero():
    close(session.hvp(lambda x: (x * V).sum(), X, V), [0.0, 0.0, 0.0])


@pytest.mark.parametrize("args", [((X,), (V, V)), (X, (V,)), ((X,), V)])
def test_mismatched_tuples_are_refused(args):
    with pytest.raises(TypeError, match="two tuples of the same length"):
        session.jvp(cube, *args)


def test_jacobian_has_the_shape_of_output_then_input():
    W = number([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    close(session.jacobian(lambda x: W @ x)(X), W.data)
    assert session.jacobian(lambda w: affine(w, W.T, number([1.0, 1.0])))(W).shape == (2, 2, 2, 3)


def test_jacobian_of_zero_dim_tensors_has_no_dims():
    j = session.jacobian(cube)(number(2.0))
    assert j.shape == ()
    assert j.item() == 12.0
    assert session.hessian(cube)(number(2.0)).item() == 12.0
    assert session.jacobian(lambda x: x * X)(number(2.0)).tolist() == X.tolist()


def test_jacobian_of_empty_tensors_is_empty():
    assert session.jacobian(lambda x: x * 2)(number(torch.zeros(0, 2))).shape == (0, 2, 0, 2)


def test_jacobian_of_a_constant_is_zero():
    close(session.jacobian(lambda x: V)(X), torch.zeros(3, 3))


def test_hessian_agrees_with_torch():
    def fn(x):
        return (torch.sin(x) * x.sum()).sum()

    expected = torch.autograd.functional.hessian(fn, X.data)
    close(session.hessian(fn)(X), expected)


def test_hessian_nested_in_a_session_is_differentiable():
    # Σ of the Hessian of Σ x⁴ is Σ 12 x², whose gradient is 24 x
    close(d(lambda x: session.hessian(lambda x: (x**4).sum())(x).sum())(X), 24 * X.data)
    close(d(lambda x: session.jacobian(cube)(x).sum())(X), 6 * X.data)


@pytest.mark.parametrize("given", [3.0, torch.ones(2), [None]])
def test_jacobian_of_what_holds_no_lite_tensor_is_refused(given):
    with pytest.raises(TypeError, match=r"jacobian\(Cube\): nothing to differentiate"):
        session.jacobian(cube)(given)


def test_stop_gradient_is_the_identity_whose_gradient_is_zero():
    close(session.stop_gradient(X), X.data)
    close(d(lambda x: x * session.stop_gradient(x))(X), X.data)
    close(d(d(lambda x: x * session.stop_gradient(x)))(X), [0.0, 0.0, 0.0])
    tree = session.stop_gradient({"x": X, "n": 3, "t": (V,)})
    assert tree["n"] == 3
    close(tree["t"][0], V.data)


def test_stop_gradient_of_an_inner_gradient_is_first_order_maml():
    def stepped(x, first_order):
        g = d(lambda x: cube(x))(x)
        return square(x - (session.stop_gradient(g) if first_order else g) * 0.1)

    x = X.data
    theta = x - 0.3 * x**2
    close(d(lambda x: stepped(x, True))(X), 2 * theta)
    close(d(lambda x: stepped(x, False))(X), 2 * theta * (1 - 0.6 * x))


def test_gradients_keyed_by_tensor_may_be_the_output_of_an_outer_transform():
    def gradients(x, y):
        return session.grad(lambda x, y: (x * x * y).sum())(x, y)

    out, pullback = session.vjp(gradients, X, V)
    gx, gy = pullback(dict.fromkeys(out, number([1.0, 1.0, 1.0])))
    close(gx, 2 * V.data + 2 * X.data)
    close(gy, 2 * X.data)


def test_everything_is_reachable_from_the_session_module():
    names = ["value_and_grad", "grad", "vjp", "jvp", "hvp", "jacobian", "hessian"]
    names += ["stop_gradient", "checkpoint", "gradcheck"]
    assert all(callable(getattr(session, name)) for name in names)
    with pytest.raises(AttributeError, match="no_such_name"):
        session.no_such_name  # noqa: B018
