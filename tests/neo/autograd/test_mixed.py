"""value_and_grad(mode="mixed"): reverse's numbers at every order, and nothing recorded of the inner backward pass."""

import gc

import optree
import pytest
import torch

import neo
from neo.autograd import TapeContext, session
from neo.errors import SavedTensorError
from neo.functions import function
from tests.neo.autograd.test_forward_levels import number

MODES = ("reverse", "mixed")


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return neo.LiteTensor(torch.randn(shape, dtype=torch.float64, generator=generator))


PARAMS = {"first": draw(4, 5), "second": draw(5, 2)}
RATES = {"first": number(0.1), "second": number(0.2)}
X, Y = draw(6, 4, seed=1), draw(6, 2, seed=2)


def loss(params, x):
    return ((torch.tanh(x @ params["first"]) @ params["second"] - Y) ** 2).mean()


class Slope(neo.autograd.Policy):
    """y = 2 x, whose gradient is 3 by its own word."""

    def forward(self, x):
        return 2 * x

    def backward(self, y_bar):
        return 3 * y_bar


slope = function(Slope)


class Square(neo.autograd.Policy):
    """y = x², of which the second order is ruled by hand, and a tangent that knows nothing of that."""

    def forward(self, x):
        self.ctx.save(x)
        return x * x

    def backward(self, y_bar):
        (x,) = self.ctx.release
        return y_bar * slope(x)

    def jvp(self, x_dot):
        (x,) = self.ctx.release
        return 2 * x * x_dot


square = function(Square)


def agree(found, expected):
    for a, b in zip(optree.tree_leaves(found), optree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(a.data, b.data, rtol=1e-10, atol=1e-12)


def adapted(params, rates, x, mode, steps=3):
    """A few steps, whose loss is also drawn to the start that it closes over; the losses on the way are added up."""
    start, total = params, 0
    for _ in range(steps):

        def inner(params, x):
            value = loss(params, x) + 0.1 * (start["first"] * params["first"]).sum()
            return value, value.sin()

        (value, aux), gradient = session.value_and_grad(inner, argnums=0, has_aux=True, mode=mode)(params, x)
        params = {name: params[name] - rates[name] * gradient[name] for name in params}
        total = total + value + aux
    return loss(params, x) + total


CASES = {
    "through steps, values and aux": lambda mode: session.value_and_grad(
        lambda *args: adapted(*args, mode), argnums=(0, 1, 2)
    )(PARAMS, RATES, X),
    "third order": lambda mode: session.grad(
        lambda p: (
            session.grad(lambda p, r: adapted(p, r, X, mode, 2), argnums=0)(p, RATES)["first"] ** 2
        ).sum(),
        argnums=0,
    )(PARAMS),
    "forward over it": lambda mode: session.jvp(
        lambda p: session.grad(loss, argnums=0, mode=mode)(p, X), (PARAMS,), (PARAMS,)
    ),
    "keyed by tensor": lambda mode: session.grad(
        lambda w: sum((g**2).sum() for g in session.grad(lambda w: torch.tanh(X @ w).sum(), mode=mode)(w).values()),
        argnums=0,
    )(PARAMS["first"]),
    "cotangent that a session differentiates": lambda mode: session.grad(
        lambda v, w: (session.grad(lambda w: torch.tanh(X @ w), argnums=0, cotangent=v, mode=mode)(w) ** 3).sum(),
        argnums=(0, 1),
    )(draw(6, 5, seed=3), PARAMS["first"]),
    "inside vmap": lambda mode: session.grad(
        lambda p: neo.vmap(lambda x: adapted(p, RATES, x, mode, 1))(draw(3, 6, 4, seed=4)).sum(), argnums=0
    )(PARAMS),
    "inside a checkpoint": lambda mode: session.grad(
        lambda p: session.checkpoint(lambda p: adapted(p, RATES, X, mode))(p), argnums=0
    )(PARAMS),
    "of a checkpoint": lambda mode: session.grad(
        lambda p: (session.grad(session.checkpoint(loss), argnums=0, mode=mode)(p, X)["first"] ** 2).sum(),
        argnums=0,
    )(PARAMS),
    "of a rule that is the user's at every order": lambda mode: session.grad(
        lambda p: adapted({**p, "first": square(p["first"])}, RATES, square(X), mode, 2)
        + (session.grad(lambda w: (square(w) * torch.sin(w)).sum(), argnums=0, mode=mode)(p["first"]) ** 2).sum(),
        argnums=0,
    )(PARAMS),
    "the same tensor passed and closed over": lambda mode: session.grad(
        lambda w: (session.grad(lambda v: (v**3 * w**2).sum(), argnums=0, mode=mode)(w) ** 2).sum(), argnums=0
    )(PARAMS["first"]),
    "of what no session around differentiates": lambda mode: session.grad(
        lambda r: (session.grad(lambda w: (w**3 * r).sum(), argnums=0, mode=mode)(X) ** 2).sum(), argnums=0
    )(number(2.0)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_mixed_has_the_numbers_of_reverse(case):
    agree(CASES[case]("mixed"), CASES[case]("reverse"))


def products(fn):
    """Of matrices, by torch's own kernels: how many fn takes."""
    with neo.kernels.switched_off(), torch.profiler.profile() as profiled:
        fn()
    return sum(event.count for event in profiled.key_averages() if event.key in ("aten::mm", "aten::addmm"))


def test_gradient_of_a_gradient_takes_no_more_products_than_it_must():
    """y = f(x A) B, of which A has a tangent: x A, x Ȧ, h B and ḣ B on the way there, on the way back two for each of
    the last two, one for x A. Forward over reverse would take two more: gradients of A and B that are known already."""
    inner = session.grad(loss, argnums=0, mode="mixed")
    alone = products(lambda: inner(PARAMS, X))
    whole = products(lambda: session.grad(lambda p: (inner(p, X)["first"] ** 2).sum(), argnums=0)(PARAMS))
    assert (alone, whole) == (5, 5 + 9)


def test_without_a_session_around_the_modes_are_one():
    agree(session.grad(loss, argnums=0, mode="mixed")(PARAMS, X), session.grad(loss, argnums=0)(PARAMS, X))


def test_session_around_records_one_node_and_keeps_nothing_of_the_inside():
    class Kept(neo.autograd.Policy):
        alive = 0

        def forward(self, x):
            y = x.clone()
            self.ctx.constant(y)
            Kept.alive += 1
            import weakref

            weakref.finalize(y, Kept.gone)
            return x * 3

        def backward(self, grad):
            return grad * 3

        @staticmethod
        def gone():
            Kept.alive -= 1

    kept = function(Kept)
    found = {}

    def outer(w, mode):
        for _ in range(5):
            w = w - session.grad(lambda w: (kept(w) ** 2).sum(), argnums=0, mode=mode)(w)
        gc.collect()
        found[mode] = (Kept.alive, len(TapeContext.current()))
        return w.sum()

    gradients = [session.grad(lambda w, mode=mode: outer(w, mode), argnums=0)(draw(3)) for mode in MODES]
    agree(gradients[1], gradients[0])
    assert found["mixed"] == (0, 10)  # a gradient and a subtraction a step
    assert found["reverse"][0] > 0
    assert found["reverse"][1] > 10


def test_draws_are_drawn_again():
    def outer(w, mode):
        torch.manual_seed(0)
        inner = lambda w: (torch.nn.functional.dropout(w, 0.5, True) ** 3).sum()  # noqa: E731
        return (session.grad(inner, argnums=0, mode=mode)(w) ** 2).sum()

    agree(*[session.grad(lambda w, m=mode: outer(w, m), argnums=0)(draw(50)) for mode in MODES])


def test_function_that_gives_other_values_when_run_again_is_found_out():
    def outer(p):
        for k in range(2):
            g = session.grad(lambda w: (w**3).sum() * k, argnums=0, mode="mixed")(p)  # noqa: B023 - k is bound anew
            p = p - g
        return p.sum()

    def with_value(p):
        factor = [1.0]
        value, _ = session.value_and_grad(lambda w: (w**3).sum() * factor[0], argnums=0, mode="mixed")(p)
        factor[0] = 2.0
        return value

    with pytest.raises(SavedTensorError, match="came out different"):
        session.grad(with_value, argnums=0)(draw(3))
    with pytest.raises(SavedTensorError, match="came out different"):
        session.grad(outer, argnums=0)(draw(3))


def test_mode_is_checked():
    with pytest.raises(
        ValueError, match='"reverse" or "mixed", got "forward"'.replace('"forward"', "'forward'")
    ):
        session.grad(loss, mode="forward")
