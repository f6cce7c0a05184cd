"""A Policy's own jvp: used wherever the trace meets it, nested and at every order; its mistakes are named."""

import optree
import pytest
import torch

import neo
from neo import autograd
from neo.autograd import session
from neo.errors import GradcheckError, GradientError
from neo.functions import function
from tests.neo.autograd.policies import sincos, square
from tests.neo.functions.orders import tensors
from tests.neo.functions.samples import SAMPLES


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


def d(fn):
    return session.grad(fn, argnums=0)


X, Y, V = number([0.5, -1.0, 2.0]), number([2.0, 3.0, -1.0]), number([1.0, 0.5, -2.0])


class Weighted(autograd.Policy):
    """z = x² y;  ż = 2 x y ẋ + x² ẏ. Counts how often its jvp runs."""

    pushed = 0

    def forward(self, x, y):
        self.ctx.save(x, y)
        return x * x * y

    def backward(self, grad):
        x, y = self.ctx.release
        return grad * x * y * 2, grad * x * x

    def jvp(self, x_dot, y_dot):
        Weighted.pushed += 1
        x, y = self.ctx.release
        return 2 * x * y * x_dot + x * x * y_dot


weighted = function(Weighted)


def plain(x, y):
    return x * x * y


def pushes(fn):
    """What fn gives, and how often Weighted.jvp ran meanwhile."""
    before = Weighted.pushed
    return fn(), Weighted.pushed - before


def test_own_jvp_is_used_beside_policies_without_one():
    fn = lambda op: session.jvp(lambda x, y: torch.sin(op(square(x), y)), (X, Y), (V, X))  # noqa: E731
    (out, tangent), count = pushes(lambda: fn(weighted))
    assert count == 1
    expected = fn(plain)
    torch.testing.assert_close(out.data, expected[0].data)
    torch.testing.assert_close(tangent.data, expected[1].data)


def test_input_without_a_tangent_has_zeros_and_needs_none():
    class Told(Weighted):
        def jvp(self, x_dot, y_dot):
            assert self.ctx.needs_grad == (True, False)
            assert y_dot.tolist() == [0.0, 0.0, 0.0]
            return super().jvp(x_dot, y_dot)

    _, tangent = session.jvp(lambda x: function(Told)(x, Y), (X,), (V,))
    torch.testing.assert_close(tangent.data, 2 * X.data * Y.data * V.data)


NESTINGS = {
    "jvp of grad": lambda op: session.jvp(d(lambda x: op(x, Y).sin().sum()), (X,), (V,))[1],
    "grad of jvp": lambda op: d(lambda x: session.jvp(lambda x: op(x, Y).sin(), (x,), (V,))[1])(X),
    "grad of jvp by the tangent": lambda op: d(lambda v: session.jvp(lambda x: op(x, Y), (X,), (v,))[1])(V),
    "jvp of jvp": lambda op: session.jvp(
        lambda x: session.jvp(lambda x: op(x, x * Y), (x,), (V,))[1], (X,), (Y,)
    )[1],
    "grad of jvp of grad": lambda op: d(
        lambda y: session.jvp(d(lambda x: op(x, y).sin().sum()), (X,), (V,))[1]
    )(Y),
    "hessian of jvp": lambda op: session.hessian(
        lambda x: session.jvp(lambda x: op(x, Y).sin(), (x,), (V,))[1].sum()
    )(X),
}


@pytest.mark.parametrize("name", NESTINGS)
def test_own_jvp_nests_and_is_right_at_second_order(name):
    got, count = pushes(lambda: NESTINGS[name](weighted))
    torch.testing.assert_close(got.data, NESTINGS[name](plain).data, rtol=1e-12, atol=1e-12)
    assert count > 0


def test_own_jvp_survives_gradcheck_to_third_order():
    def directional(x, y, v):
        return session.jvp(lambda x: weighted(torch.tanh(x), y), (x,), (v,))[1]

    assert session.gradcheck(directional, (X, Y, V), order=3)
    assert session.gradcheck(weighted, (X, Y), order=3)


def test_perturbations_of_nested_jvps_are_not_confused():
    # d/dx [x · d/dy (x + y)] at y = x is 1
    inner = lambda x: session.jvp(lambda y: x + y, (x,), (number(1.0),))[1]  # noqa: E731
    _, tangent = session.jvp(lambda x: x * inner(x), (number(3.0),), (number(1.0),))
    assert tangent.item() == 1.0


def test_several_outputs_and_integer_outputs_are_pushed_to():
    out, tangent = session.jvp(lambda x: (sincos(x), torch.sort(x)[0]), (X,), (V,))
    torch.testing.assert_close(tangent[0][0].data, X.data.cos() * V.data)
    torch.testing.assert_close(tangent[0][1].data, -X.data.sin() * V.data)
    assert tangent[1].tolist() == [0.5, 1.0, -2.0]
    assert out[1].tolist() == [-1.0, 0.5, 2.0]


def test_intermediates_may_die_while_the_function_runs():
    def fn(x):
        for _ in range(5):
            x = torch.tanh(x * 2)  # each is gone when the next is there
        return x

    _, tangent = session.jvp(fn, (X,), (V,))
    _, pullback = session.vjp(fn, X)
    torch.testing.assert_close(
        (tangent.data).sum(), (pullback(torch.ones_like(X.data))[0].data * V.data).sum()
    )


def test_session_inside_and_checkpoint_inside_are_pushed_through():
    fn = lambda x: session.checkpoint(lambda x: d(lambda t: (t**3 * x).sum())(x))(x)  # 3 x³  # noqa: E731
    _, tangent = session.jvp(fn, (X,), (V,))
    torch.testing.assert_close(tangent.data, 9 * X.data**2 * V.data)


@pytest.mark.parametrize("case", SAMPLES, ids=[f"{i}-{case.id}" for i, case in enumerate(SAMPLES)])
def test_tangents_and_gradients_of_every_op_are_adjoint(case):
    generator = torch.Generator().manual_seed(0)
    args = tuple(neo.LiteTensor(x) for x in case.args)
    dots = tuple(neo.LiteTensor(torch.randn(x.shape, dtype=x.dtype, generator=generator)) for x in case.args)
    fn = lambda *xs: tensors(case.fn(*xs))  # noqa: E731
    out, pullback = session.vjp(fn, *args)
    bars = [torch.randn(o.shape, dtype=o.dtype, generator=generator) for o in out]
    _, tangent = session.jvp(fn, args, dots)
    forward = sum(float((t.data * bar).sum()) for t, bar in zip(tangent, bars, strict=True))
    back = sum(float((g.data * t.data).sum()) for g, t in zip(pullback(bars), dots, strict=True))
    exact = all(o.dtype is torch.float64 for o in out)
    assert forward == pytest.approx(back, rel=1e-7 if exact else 1e-5, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("w", [[0.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
def test_gradient_of_logcumsumexp_is_linear_where_cotangents_are_zero(w):
    """∂/∂w ∂/∂x Σ w y at w = 0: a rule by logarithms of the cotangent has no derivative there (torch's is wrong)."""
    x, w = number([0.3, -0.4]), number(w)
    mixed = lambda w, x: d(lambda x: (w * torch.logcumsumexp(x, 0)).sum())(x)  # noqa: E731
    plain = lambda w, x: d(lambda x: (w * torch.log(torch.cumsum(torch.exp(x), 0))).sum())(x)  # noqa: E731
    for k in (1, 2):
        f, g = (
            (lambda w, x, h=h: d(lambda w: (h(w, x) * V[:2]).sum())(w))
            if k == 1
            else (lambda w, x, h=h: d(lambda x: (d(lambda w: (h(w, x) * V[:2]).sum())(w) * Y[:2]).sum())(x))
            for h in (mixed, plain)
        )
        torch.testing.assert_close(f(w, x).data, g(w, x).data)


# --- mistakes --------------------------------------------------------------------------------------------------------


def returning(result):
    class Wrong(Weighted):
        def jvp(self, x_dot, y_dot):
            return result(x_dot)

    return function(Wrong)


WRONG = {
    "too many": (lambda t: (t, t), r"Wrong.jvp: expected 1 tangent, one per output of forward, got 2"),
    "a number": (lambda t: 0.0, r"Wrong.jvp: tangent 0 must be a tensor or None, got float 0.0"),
    "shape": (lambda t: t.sum(), r"Wrong.jvp: tangent 0 has shape \(\), torch.float64, .* expected \(3,\)"),
    "dtype": (lambda t: t.to(torch.float32), r"tangent 0 has shape \(3,\), torch.float32"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("order", [1, 2])
def test_wrong_tangents_are_named_with_the_place_of_the_rule(name, order):
    result, message = WRONG[name]
    fn = lambda x: session.jvp(lambda x: returning(result)(x, Y), (x,), (V,))[1]  # noqa: E731
    with pytest.raises(GradientError, match=message) as caught:
        (fn if order == 1 else d(fn))(X)
    assert __file__ in "".join(caught.value.__notes__)
    assert autograd.TapeContext.current() is None


def test_none_is_a_tangent_of_zero():
    _, tangent = session.jvp(lambda x: returning(lambda t: None)(x, Y), (X,), (V,))
    assert tangent.tolist() == [0.0, 0.0, 0.0]


def test_gradcheck_compares_a_jvp_with_the_gradients_and_names_it():
    class Half(Weighted):
        def jvp(self, x_dot, y_dot):
            x, y = self.ctx.release
            return 2 * x * y * x_dot

    with pytest.raises(GradcheckError, match=r"tangent by jvp, .* is off.* The fault is in Half\.jvp"):
        session.gradcheck(lambda x, y: torch.sin(function(Half)(x, y * weighted(x, y))), (X, Y))


@pytest.mark.parametrize(
    ("args", "tangents", "message"),
    [
        ((X,), (None,), r"argument 0 needs a tangent of shape \(3,\), got None"),
        ((X, 3), (V, 1.0), r"argument 1 is a constant \(int\), so that its tangent must be None, got float"),
        (
            (X, neo.LiteTensor([1])),
            (V, number([1.0])),
            r"argument 1 is a constant \(LiteTensor of torch.int64",
        ),
        (({"a": X},), ({"b": V},), r"the tangent of argument 0 must mirror it"),
        (
            ({"a": X},),
            ({"a": number([1.0])},),
            r"the tangent of argument 0\['a'\] is .* expected shape \(3,\)",
        ),
        ((X,), (V.to(torch.float32),), r"the tangent of argument 0 is LiteTensor of torch.float32"),
    ],
)
def test_tangents_that_do_not_match_their_argument_are_named(args, tangents, message):
    with pytest.raises(ValueError, match=f"jvp: {message}"):
        session.jvp(lambda *args: optree.tree_leaves(args)[0] * 2, args, tangents)


def test_hvp_takes_policies_with_and_without_a_jvp_to_the_same_numbers_and_draws():
    cube = function(
        type(
            "Cube",
            (autograd.Policy,),
            {
                "forward": lambda self, x: self.ctx.save(x) or x**3,
                "backward": lambda self, grad: 3 * grad * self.ctx.release[0] * self.ctx.release[0],
            },
        )
    )

    def product(op):
        torch.manual_seed(0)
        dropped = lambda x: torch.nn.functional.dropout(op(x), 0.5, True)  # noqa: E731
        found, aux = session.hvp(lambda x, y: ((dropped(x) * y).sum(), x), (X, Y), (V, X), has_aux=True)
        return [*found, aux, neo.rand(3)]

    for got, expected in zip(product(cube), product(lambda x: x**3), strict=True):
        torch.testing.assert_close(got.data, expected.data)


def test_hvp_holds_no_second_backward_pass():
    """Forward over reverse: what is recorded around it is nothing, however deep fn is."""
    nodes = []

    def fn(x):
        for _ in range(50):
            x = torch.tanh(x)
        nodes.append(len(autograd.TapeContext.current()))
        return x.sum()

    session.hvp(fn, X, V)
    assert nodes == [50]  # fn ran once, on the inner tape alone
