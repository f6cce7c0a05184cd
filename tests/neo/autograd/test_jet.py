"""Taylor mode: derivatives along curves, held to torch's double backward along the same curve, and to nested jvp."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel

import neo
from neo import autograd
from neo.autograd import session
from neo.functions import function
from tests.neo.functions.orders import tensors
from tests.neo.functions.samples import SAMPLES

ORDER = 4


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def curves(xs, order, seed=1):
    """For each tensor its first to order-th derivative."""
    return [[0.5 * draw(*x.shape, seed=seed + 7 * i + k) for k in range(order)] for i, x in enumerate(xs)]


def along(fn, xs, series, order):
    """d^k/dt^k fn(x + t x1 + t²/2 x2 + ...) at t = 0 for k = 1 ... order, by torch.autograd, entry by entry."""
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    at = [
        x + sum(t ** (k + 1) / math.factorial(k + 1) * term for k, term in enumerate(terms))
        for x, terms in zip(xs, series, strict=True)
    ]
    values = fn(*at)
    found = [[] for _ in range(order)]
    for value in values.reshape(-1):
        for k in range(order):
            value = torch.autograd.grad(value, t, create_graph=True)[0] if value.requires_grad else t * 0
            found[k].append(value.detach())
    return [torch.stack(each).reshape(values.shape) for each in found]


def lite(xs):
    return tuple(neo.LiteTensor(x) for x in xs)


def check(fn, *xs, order=ORDER):
    series = curves(xs, order)
    out, found = neo.jet(fn, lite(xs), tuple(series))
    torch.testing.assert_close(out.data, fn(*xs), rtol=1e-12, atol=1e-12)
    for k, (got, expected) in enumerate(zip(found, along(fn, xs, series, order), strict=True)):
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(
            got.data, expected, rtol=1e-10, atol=1e-10 * scale, msg=lambda text, k=k: f"{k + 1}: {text}"
        )


def attention(q, k, v):
    with sdpa_kernel(SDPBackend.MATH):  # of torch's own, the one that can be differentiated twice
        return F.scaled_dot_product_attention(q, k, v)


def layer_norm(x):
    """Spelled out for torch, whose layer norm has a wrong third derivative (2.13)."""
    if isinstance(x, neo.LiteTensor):
        return F.layer_norm(x, (4,))
    away = x - x.mean(-1, keepdim=True)
    return away / torch.sqrt((away * away).mean(-1, keepdim=True) + 1e-5)


CASES = {
    "sin": (torch.sin, (5,)),
    "cos": (torch.cos, (5,)),
    "exp, whose rule uses its output": (torch.exp, (5,)),
    "tanh, likewise": (torch.tanh, (5,)),
    "sigmoid": (torch.sigmoid, (5,)),
    "softplus": (F.softplus, (5,)),
    "gelu": (F.gelu, (5,)),
    "silu": (F.silu, (5,)),
    "reciprocal": (lambda x: 1 / (x * x + 2), (4,)),
    "powers": (lambda x: x**5 - 3 * x**2, (4,)),
    "roots and logarithms": (lambda x: torch.sqrt(x * x + 1) * torch.log(x * x + 2), (4,)),
    "softmax": (lambda x: torch.softmax(x, -1), (3, 4)),
    "logsumexp": (lambda x: torch.logsumexp(x, -1), (3, 4)),
    "layer norm": (layer_norm, (3, 4)),
    "shapes": (lambda x: (x.T.reshape(2, 6)[:, 1:] * 2).sum(0) ** 3, (3, 4)),
    "maximum": (lambda x: (x**3).max(-1).values, (3, 4)),
    "products": (lambda x, y: x * y * y + x / (2 + y * y), (4,), (4,)),
    "broadcasting": (lambda x, y: x * y, (3, 1), (4,)),
    "matrices": (lambda x, y: (x @ y).T @ x, (3, 4), (4, 2)),
    "stacks of matrices": (lambda x, y: torch.sin(x @ y), (2, 3, 4), (2, 4, 2)),
    "linear": (lambda x, w, b: F.linear(x, w, b), (3, 4), (2, 4), (2,)),
    "convolution": (lambda x, w: torch.tanh(F.conv2d(x, w, padding=1)), (1, 2, 3, 3), (2, 2, 3, 3)),
    "attention": (attention, (1, 1, 3, 2), (1, 1, 3, 2), (1, 1, 3, 2)),
    "cross-entropy": (lambda x: F.cross_entropy(x, torch.tensor([0, 2])), (2, 3)),
    "matrix inverse": (lambda x: torch.linalg.inv(x @ x.T + 3 * torch.eye(3, dtype=x.dtype)), (3, 3)),
    "constant": (lambda x: torch.ones_like(x) + 0 * x.detach(), (3,)),
}


@pytest.mark.parametrize("case", CASES)
def test_derivatives_along_a_curve_are_those_of_torch(case):
    fn, *shapes = CASES[case]
    check(fn, *(draw(*shape, seed=3 + i) for i, shape in enumerate(shapes)))


def test_perceptron_to_sixth_order():
    weights = [draw(4, 2), draw(4), draw(3, 4), draw(3)]

    def net(x):
        a, b, c, d = weights
        return F.linear(torch.sin(F.linear(x, a, b)), c, d)

    check(net, draw(2, 2), order=6)


@pytest.mark.parametrize("case", SAMPLES, ids=[f"{i}-{case.id}" for i, case in enumerate(SAMPLES)])
def test_every_op_as_jvp_in_jvp(case):
    """Along a straight line; every third-order derivative has one value but for rounding."""
    args = tuple(neo.LiteTensor(x) for x in case.args)
    generator = torch.Generator().manual_seed(0)
    dots = tuple(torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in case.args)

    def fn(*xs):
        return tensors(case.fn(*xs))

    def once(f):
        return lambda *xs: session.jvp(f, xs, dots)[1]

    out, found = neo.jet(fn, args, tuple([dot, None, None] for dot in dots))
    nested = once(fn)
    for k in range(3):
        expected = nested(*args)
        nested = once(nested)
        for got, one in zip(found[k], expected, strict=True):
            exact = one.dtype is torch.float64
            size = max(1.0, float(one.data.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0)
            torch.testing.assert_close(
                got.data,
                one.data,
                rtol=1e-8 if exact else 1e-3,
                atol=(1e-8 if exact else 1e-3) * size,
                equal_nan=True,
            )
    for got, one in zip(out, fn(*args), strict=True):
        torch.testing.assert_close(got.data, one.data, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.sampled_from(["sin", "tanh", "mul", "add", "div", "square", "linear"]), min_size=1, max_size=6
    ),
    st.integers(1, 4),
    st.integers(0, 1000),
)
def test_random_programs(steps, order, seed):
    weight = draw(3, 3, seed=seed)

    def fn(x, y):
        for step in steps:
            if step == "linear":
                x = x @ weight
            elif step in ("mul", "add"):
                x = x * y if step == "mul" else x + y
            elif step == "div":
                x = x / (y * y + 1)
            else:
                x = getattr(torch, step)(x)
        return x + 0 * y

    check(fn, draw(2, 3, seed=seed + 1), draw(2, 3, seed=seed + 2), order=order)


# --- with sessions ---------------------------------------------------------------------------------------------------


def third(fn, x):
    """u_xxx by jet, and by torch."""
    ones = torch.ones(x.shape, dtype=torch.float64)
    return neo.jet(fn, (x,), ((ones, None, None),))[1][2]


def third_by_torch(fn, x):
    for _ in range(3):
        fn = (lambda f: lambda x: torch.autograd.grad(f(x).sum(), x, create_graph=True)[0])(fn)
    return fn(x)


def net_of(a, b, c):
    return lambda x: torch.sin(x @ a + b) @ c


@pytest.mark.parametrize("levels", [1, 2])
def test_gradients_of_derivatives(levels):
    """Sessions around: the gradient of a loss of third derivatives, and the gradient of its norm."""
    weights = [draw(1, 4), draw(4), draw(4, 1)]
    x = draw(5, 1)

    def loss(*ws):
        return third(net_of(*ws), neo.LiteTensor(x)).square().mean()

    def norm(*ws):
        return sum(g.square().sum() for g in neo.grad(loss, argnums=(0, 1, 2))(*ws))

    found = neo.grad(loss if levels == 1 else norm, argnums=(0, 1, 2))(*lite(weights))

    ws = [w.clone().requires_grad_() for w in weights]
    value = third_by_torch(net_of(*ws), x.clone().requires_grad_()).square().mean()
    for _ in range(levels):
        gradients = torch.autograd.grad(value, ws, create_graph=True)
        value = sum(g.square().sum() for g in gradients)
    for got, expected in zip(found, gradients, strict=True):
        torch.testing.assert_close(got.data, expected, rtol=1e-10, atol=1e-10)


def test_curve_of_a_gradient():
    """A session inside: the derivatives of a gradient, second order being what hvp gives."""
    x, v = draw(4), draw(4, seed=9)
    fn = lambda x: (torch.sin(x) * x.sum()).sum()  # noqa: E731
    _, (first, second) = neo.jet(neo.grad(fn, argnums=0), (neo.LiteTensor(x),), ((v, None),))
    torch.testing.assert_close(first.data, neo.hvp(fn, neo.LiteTensor(x), v).data, rtol=1e-12, atol=1e-12)
    again = neo.jvp(lambda x: neo.hvp(fn, x, v), (neo.LiteTensor(x),), (v,))[1]
    torch.testing.assert_close(second.data, again.data, rtol=1e-12, atol=1e-12)


def test_gradient_by_the_curve_itself():
    """The derivatives that are given are arguments like others to a session around."""
    x, v, w = lite([draw(4), draw(4, seed=5), draw(4, seed=6)])
    value = lambda x, v, w: neo.jet(torch.sin, (x,), ((v, w),))[1][1].sum()  # noqa: E731
    found = neo.grad(value, argnums=(0, 1, 2))(x, v, w)
    plain = lambda x, v, w: (w * torch.cos(x) - v * v * torch.sin(x)).sum()  # noqa: E731
    leaves = [t.data.clone().requires_grad_() for t in (x, v, w)]
    for got, expected in zip(found, torch.autograd.grad(plain(*leaves), leaves), strict=True):
        torch.testing.assert_close(got.data, expected, rtol=1e-12, atol=1e-12)


def test_jets_in_one_another_keep_their_curves_apart():
    """Mixed derivatives u_xxyy, where each curve's own tensors are constants to the other."""
    x, y = lite([draw(3), draw(3, seed=4)])
    ones = neo.LiteTensor(torch.ones(3, dtype=torch.float64))

    def in_y(x):
        return neo.jet(lambda y: torch.sin(x * y), (y,), ((ones, None),))[1][1]

    _, (_, found) = neo.jet(in_y, (x,), ((ones, None),))
    a, b = x.data.clone().requires_grad_(), y.data.clone().requires_grad_()
    value = torch.sin(a * b)
    for leaf in (b, b, a, a):
        value = torch.autograd.grad(value.sum(), leaf, create_graph=True)[0]
    torch.testing.assert_close(found.data, value.detach(), rtol=1e-11, atol=1e-11)
    # what fn closes over has no derivative, be it the tensor that is the direction
    _, (first, second) = neo.jet(lambda x: x * ones, (x,), ((ones, None),))
    assert first.data.tolist() == [1.0] * 3
    assert second.data.tolist() == [0.0] * 3


@pytest.mark.parametrize("wrap", [session.checkpoint, lambda f: session.vmap(f)], ids=["checkpoint", "vmap"])
def test_inside_is_a_checkpoint_or_vmap(wrap):
    x, series = draw(3, 2), curves([draw(3, 2)], 3)
    fn = lambda x: torch.tanh(x) * torch.exp(x)  # noqa: E731
    _, found = neo.jet(wrap(fn), (neo.LiteTensor(x),), tuple(series))
    for got, expected in zip(found, along(fn, [x], series, 3), strict=True):
        torch.testing.assert_close(got.data, expected, rtol=1e-10, atol=1e-10)


def test_under_vmap():
    x, v = draw(5, 3), draw(5, 3, seed=2)
    fn = lambda x: torch.sin(x) @ torch.ones(3, 2, dtype=torch.float64)  # noqa: E731
    both = neo.vmap(lambda x, v: neo.jet(fn, (x,), ((v, None, None),)))(*lite([x, v]))
    for i in range(5):
        one = neo.jet(fn, (neo.LiteTensor(x[i]),), ((v[i], None, None),))
        for got, expected in zip([both[0], *both[1]], [one[0], *one[1]], strict=True):
            torch.testing.assert_close(got.data[i], expected.data, rtol=1e-12, atol=1e-12)


def test_checkpoint_around_gives_the_gradient():
    x = neo.LiteTensor(draw(3))
    fn = lambda x: third(lambda x: torch.sin(x * x), x).sum()  # noqa: E731
    torch.testing.assert_close(
        neo.grad(session.checkpoint(fn), argnums=0)(x).data, neo.grad(fn, argnums=0)(x).data, rtol=0, atol=0
    )


class OnlyBackward(autograd.Policy):
    """y = x³, without a rule for tangents."""

    def forward(self, x):
        self.ctx.save(x)
        return x**3

    def backward(self, g):
        (x,) = self.ctx.release
        return 3 * g * x**2


def test_policy_of_the_users_own_without_a_jvp():
    check(lambda x: function(OnlyBackward)(x) if isinstance(x, neo.LiteTensor) else x**3, draw(4))


# --- structures and errors -------------------------------------------------------------------------------------------


def test_trees_and_constants():
    x, y = lite([draw(3), draw(2, seed=8)])
    fn = lambda tree, scale: {"z": tree["x"] ** 2 * scale, "w": (tree["y"][0],)}  # noqa: E731
    v = draw(3, seed=9)
    out, (first, second) = neo.jet(
        fn, ({"x": x, "y": [y]}, 3.0), (({"x": v, "y": [None]}, {"x": None, "y": [v[:2]]}), None)
    )
    assert set(out) == set(first) == {"z", "w"}
    torch.testing.assert_close(first["z"].data, 6 * x.data * v)
    torch.testing.assert_close(second["z"].data, 6 * v * v)
    assert first["w"][0].data.tolist() == [0, 0]
    torch.testing.assert_close(second["w"][0].data, v[:2])  # y moves at second order alone


def test_first_order_is_jvp():
    x, v = neo.LiteTensor(draw(3)), draw(3, seed=2)
    (out, (first,)), (again, tangent) = (
        neo.jet(torch.exp, (x,), ((v,),)),
        neo.jvp(torch.exp, (x,), (v,)),
    )
    assert torch.equal(out.data, again.data)
    assert torch.equal(first.data, tangent.data)


X = neo.LiteTensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("primals", "series", "error", "words"),
    [
        (X, ((X,),), TypeError, "jet: expected two tuples of the same length"),
        ((X,), (X,), TypeError, "jet: the series of argument 0 must be a sequence of its first, second"),
        (
            (X,),
            ([],),
            ValueError,
            "expected as many derivatives of each argument, at least one, got 0 of argument 0",
        ),
        ((X, X), ([X], [X, X]), ValueError, "got 1 of argument 0, 2 of argument 1"),
        ((X,), (None,), ValueError, "at least one, got none"),
        (
            (X,),
            ([neo.LiteTensor([1.0])],),
            ValueError,
            "the derivative of argument 0 is LiteTensor of torch.float32",
        ),
        ((X,), ([X, {"a": X}],), ValueError, "the derivative of argument 0 must mirror it"),
        ((X, 2.0), ([X], [X]), ValueError, "argument 1 is a constant"),
    ],
)
def test_errors_say_what_is_expected(primals, series, error, words):
    with pytest.raises(error, match=words):
        neo.jet(lambda x, *rest: x, primals, series)


def test_an_error_in_the_function_closes_the_level():
    with pytest.raises(ZeroDivisionError):
        neo.jet(lambda x: 1 / 0, (X,), ([X],))
    assert autograd.TapeContext.current() is None
    _, (first,) = neo.jet(torch.sin, (X,), ([X],))
    torch.testing.assert_close(first.data, torch.cos(X.data) * X.data)
