"""checkpoint: the same values and gradients at every order, with what fn did forgotten and done again."""

import pytest
import torch

import neo
from neo import autograd
from neo.autograd import TapeContext, session
from neo.errors import SavedTensorError
from neo.functions import function
from tests.neo.autograd.policies import cube, sincos, square


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


def d(fn):
    return session.grad(fn, argnums=0)


X = number([0.5, -1.0, 2.0])
SCALE = number([2.0, 3.0, 5.0])


def chain(x):
    return torch.sin(cube(x) * x) * square(x)


def with_session_inside(x):
    return d(lambda t: cube(t) * x)(x) * x


def with_checkpoint_inside(x):
    return session.checkpoint(lambda x: session.checkpoint(chain)(x) * x)(x) + session.checkpoint(cube)(x)


FUNCTIONS = [chain, with_session_inside, with_checkpoint_inside]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda f: f.__name__)
def test_values_and_gradients_are_the_same_at_every_order(fn, order):
    plain, again = fn, session.checkpoint(fn)
    torch.testing.assert_close(again(X).data, plain(X).data)
    for _ in range(order):
        plain, again = d(plain), d(again)
    torch.testing.assert_close(again(X).data, plain(X).data)


@pytest.mark.parametrize("order", [1, 2])
def test_what_fn_closes_over_gets_its_gradient(order):
    def fn(scale, wrap):
        inner = wrap(lambda x: torch.sin(x * scale) * scale * SCALE)
        g = inner(X) if order == 1 else d(inner)(X)
        return g * scale

    plain = d(lambda s: fn(s, lambda f: f))(SCALE)
    again = d(lambda s: fn(s, session.checkpoint))(SCALE)
    torch.testing.assert_close(again.data, plain.data)
    assert plain.data.abs().min() > 0


def test_closure_of_a_checkpoint_in_a_session_in_a_checkpoint_gets_its_gradient():
    def fn(scale, wrap):
        outer = wrap(lambda x: d(wrap(lambda t: t * t * scale))(x))  # 2 x s
        return outer(X)

    assert d(lambda s: fn(s, session.checkpoint))(SCALE).tolist() == (2 * X.data).tolist()
    assert d(lambda s: fn(s, session.checkpoint) * s)(SCALE).tolist() == (4 * X.data * SCALE.data).tolist()

    def value_alone(scale):  # no backward runs inside, which would meet `scale` once more
        return session.checkpoint(lambda x: session.vjp(session.checkpoint(lambda t: t * scale), x)[0])(X)

    assert d(value_alone)(SCALE).tolist() == X.tolist()


WALKS = {
    "cotangent": lambda x, v: session.grad(cube, argnums=0, cotangent=v)(x),
    "pullback": lambda x, v: session.vjp(cube, x)[1](v)[0],
    "tangent": lambda x, v: session.jvp(cube, (x,), (v,))[1],
    "hvp": lambda x, v: session.hvp(cube, x, v),
}


@pytest.mark.parametrize("wrap", [session.checkpoint, lambda f: lambda x: session.vmap(f)(x[None])[0]])
@pytest.mark.parametrize("walk", WALKS)
def test_cotangent_or_tangent_that_fn_closes_over_gets_its_gradient(walk, wrap):
    """It enters fn through no op, but through the walk over an inner tape."""

    def fn(v, wrap):
        return (wrap(lambda x: WALKS[walk](x, v))(X) ** 2).sum()

    for order in (1, 2):
        plain, again = lambda v: fn(v, lambda f: f), lambda v: fn(v, wrap)
        for _ in range(order):
            plain, again = d(plain), d(again)
        torch.testing.assert_close(again(SCALE).data, plain(SCALE).data)
        assert plain(SCALE).data.abs().min() > 0


def test_ops_inside_are_forgotten_and_done_again():
    calls = []

    def fn(x):
        calls.append(TapeContext.current() is None)
        for _ in range(10):
            x = square(x) + 1e-3
        return x

    def outer(x):
        y = session.checkpoint(fn)(x)
        assert len(TapeContext.current().nodes) == 1
        return y

    d(outer)(number(0.5))
    assert calls == [True, False]  # first with every tape suspended, then on a tape of its own


def test_without_a_session_it_is_the_function():
    calls = []
    out = session.checkpoint(lambda x: calls.append(1) or x * 2)(X)
    assert out.tolist() == [1.0, -2.0, 4.0]
    assert calls == [1]


def test_random_draws_are_repeated():
    def noisy(x):
        return x * torch.rand(3, dtype=torch.float64) * x

    torch.manual_seed(0)
    expected = d(noisy)(X)
    torch.manual_seed(0)
    got, after = d(session.checkpoint(noisy))(X), torch.rand(1)
    torch.testing.assert_close(got.data, expected.data)
    torch.manual_seed(0)
    torch.rand(3, dtype=torch.float64)
    assert torch.equal(after, torch.rand(1))  # the recomputation leaves the generator as it was


def test_several_outputs_some_unused_some_constant_some_inputs():
    def fn(x):
        s, c = sincos(x)
        return {"s": s, "c": c, "x": x, "n": neo.LiteTensor([1, 2]), "free": SCALE * 2, "plain": 3.0}

    def run(wrap):
        def total(x):
            out = wrap(fn)(x)
            assert out["plain"] == 3.0
            return out["s"] * 2 + out["x"] * 5 + out["free"]

        return d(total)(X)

    torch.testing.assert_close(run(session.checkpoint).data, run(lambda f: f).data)
    torch.testing.assert_close(run(session.checkpoint).data, 2 * X.data.cos() + 5)


def test_output_that_is_the_input_counts_once_for_each_use():
    assert d(lambda x: session.checkpoint(lambda x: x)(x) * x)(X).tolist() == [1.0, -2.0, 4.0]


def test_policy_saved_intermediates_inside_are_right_at_second_order():
    class Half(autograd.Policy):
        """y = x² / 2, saving x / 2 · 2."""

        def forward(self, x):
            saved = x * 0.5 * 2
            self.ctx.save(saved)
            return x * x * 0.5

        def backward(self, grad):
            return grad * self.ctx.release[0]

    fn = session.checkpoint(function(Half))
    assert d(fn)(X).tolist() == X.tolist()
    assert d(d(fn))(X).tolist() == [1.0, 1.0, 1.0]


def test_keyword_and_plain_arguments_pass_through():
    fn = session.checkpoint(lambda x, power, *, scale: x**power * scale)
    torch.testing.assert_close(d(lambda x: fn(x, 3, scale=2.0))(X).data, 6 * X.data**2)


def test_pullback_through_a_checkpoint_may_be_called_again():
    _, pullback = session.vjp(session.checkpoint(chain), X)
    first, second = (pullback(torch.ones(3, dtype=torch.float64))[0] for _ in range(2))
    assert torch.equal(first.data, second.data)


# --- random draws ----------------------------------------------------------------------------------------------------


def dropped(x):
    return torch.nn.functional.dropout(torch.tanh(x) * x, 0.5) * x


def with_draws_at_two_depths(x):
    inner = session.checkpoint(lambda x: dropped(x) + x)
    return inner(x) * torch.rand(3, dtype=torch.float64) + dropped(x)


def inner_loop(x):
    """Two gradient steps down a loss with dropout in it, each checkpointed."""
    theta = x
    for _ in range(2):
        step = session.checkpoint(lambda theta: theta - d(lambda t: (dropped(t) * x).sum())(theta) * 0.1)
        theta = step(theta)
    return dropped(theta) * theta


RANDOM = [dropped, with_draws_at_two_depths, inner_loop]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("fn", RANDOM, ids=lambda f: f.__name__)
def test_draws_are_replayed_at_every_order(fn, order, monkeypatch):
    plain, again = fn, session.checkpoint(fn)
    for _ in range(order):
        plain, again = d(plain), d(again)
    torch.manual_seed(1)
    got, after = again(X), torch.rand(1)
    with monkeypatch.context() as patch:
        patch.setattr(
            session, "checkpoint", lambda fn: fn, raising=False
        )  # the same function without one inside
        torch.manual_seed(1)
        expected = plain(X)
    torch.testing.assert_close(got.data, expected.data, rtol=1e-12, atol=1e-12)
    assert expected.data.abs().max() > 0
    assert torch.equal(after, torch.rand(1))  # and the generator goes on as if nothing had been repeated


def test_draws_from_a_generator_of_its_own_are_refused():
    generator = torch.Generator().manual_seed(0)
    noisy = session.checkpoint(lambda x: x * torch.rand(3, dtype=torch.float64, generator=generator))
    with pytest.raises(
        SavedTensorError, match=r"checkpoint\(<lambda>\): output 0, .* came out different when fn"
    ):
        d(noisy)(X)


def test_function_that_takes_another_path_is_refused():
    calls = []

    def fickle(x):
        calls.append(x)
        return [x * 2] * len(calls)

    with pytest.raises(SavedTensorError, match="fn gave 1 tensors, and 2 when it was run again"):
        d(lambda x: session.checkpoint(fickle)(x)[0])(X)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("order", [1, 2])
def test_draws_on_cuda_are_replayed(order):
    x = X.to("cuda")
    plain, again = dropped, session.checkpoint(dropped)
    for _ in range(order):
        plain, again = d(plain), d(again)
    torch.manual_seed(1)
    got, after = again(x), torch.rand(1, device="cuda")
    torch.manual_seed(1)
    torch.testing.assert_close(got.data, plain(x).data)
    assert torch.equal(after, torch.rand(1, device="cuda"))
