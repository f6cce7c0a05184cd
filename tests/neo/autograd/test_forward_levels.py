"""A level in forward mode: tangents live as long as their tensors, and nothing of an op is kept or recorded."""

import weakref
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import autograd
from neo.autograd import TapeContext, session
from neo.functions import function

pytestmark = pytest.mark.usefixtures("collector_off")


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


class Seen(autograd.Policy):
    """y = 2 x, which notes the tangents that it makes."""

    tangents: ClassVar[list] = []

    def forward(self, x):
        return x * 2

    def backward(self, grad):
        return grad * 2

    def jvp(self, x_dot):
        y_dot = x_dot * 2
        Seen.tangents.append(weakref.ref(y_dot))
        return y_dot


seen = function(Seen)


def alive():
    return sum(ref() is not None for ref in Seen.tangents)


@pytest.fixture
def tangents():
    Seen.tangents = []
    yield
    Seen.tangents = []


def test_tangents_go_with_the_tensors_that_they_belong_to(tangents):
    found = []

    def fn(x):
        for _ in range(5):
            x = seen(x)
            found.append(alive())
        return x

    session.jvp(fn, (number(1.0),), (number(1.0),))
    assert found == [1] * 5


def test_tangent_of_what_a_session_inside_has_saved_lives_until_its_walk_has_passed(tangents):
    found = []

    class Saving(Seen):
        def forward(self, x):
            self.ctx.save(x)
            return x * 2

        def backward(self, grad):
            (x,) = self.ctx.release
            found.append(alive())
            return grad * 2 + 0 * x

    saving = function(Saving)

    def fn(x):
        for _ in range(4):
            x = saving(x)
        return x

    out, tangent = session.jvp(session.grad(fn, argnums=0), (number(1.0),), (number(1.0),))
    assert out.item() == 16.0
    assert tangent.item() == 0.0
    assert found[0] == 4
    assert found[-1] <= 2


def test_nothing_stays_behind(tangents):
    x = number([1.0, 2.0])
    session.jvp(session.grad(lambda x: seen(x).sin().sum(), argnums=0), (x,), (x,))
    with pytest.raises(ZeroDivisionError):
        session.jvp(lambda x: seen(x) / (1 // 0), (x,), (x,))
    assert alive() == 0
    assert TapeContext.current() is None


def test_tangents_survive_in_place_work_of_torch_code():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 4)

        def forward(self, x):
            h = self.linear(x)
            kept = torch.tanh(h)
            h.mul_(2)  # what tanh has saved is another tensor now
            h[0] += kept[1]
            kept.add_(h)
            out = torch.empty_like(kept)
            out[:1] = kept[:1].sin()
            out[1:] = h[1:]
            return out

    torch.manual_seed(0)
    model, params = neo.nn.from_torch(Net().double())
    x, v = neo.randn((2, 3), dtype=torch.float64), neo.randn((2, 3), dtype=torch.float64)
    fn = lambda x: (model(params, x) ** 2).sum()  # noqa: E731
    slope = (session.grad(fn, argnums=0)(x) * v).sum()
    torch.testing.assert_close(session.jvp(fn, (x,), (v,))[1].data, slope.data)
    over = session.jvp(session.grad(fn, argnums=0), (x,), (v,))[1]
    torch.testing.assert_close(
        over.data, session.grad(lambda x: (session.grad(fn, argnums=0)(x) * v).sum(), argnums=0)(x).data
    )


def test_rule_runs_with_the_levels_around_alone():
    """d/dx of (d/dt f(x + t v)) with a session inside: each level has its own perturbation."""
    x, v = number([0.3, -0.4]), number([1.0, 2.0])

    def inner(x):
        return session.grad(lambda y: (torch.sin(y) * x * y).sum(), argnums=0)(x).sum()

    slope = lambda x: session.jvp(inner, (x,), (v,))[1]  # noqa: E731
    a, sin, cos = x.data, x.data.sin(), x.data.cos()  # inner(x) is the sum of a² cos a + a sin a
    torch.testing.assert_close(slope(x).data, ((-(a**2) * sin + 3 * a * cos + sin) * v.data).sum())
    twice = (-5 * a * sin - a**2 * cos + 4 * cos) * v.data
    torch.testing.assert_close(session.grad(slope, argnums=0)(x).data, twice)


def test_no_grad_inside_makes_constants_and_around_changes_nothing():
    x = number([0.3, -0.4])

    def fn(x):
        with torch.no_grad():
            constant = torch.exp(x)
        return constant * x

    with torch.no_grad():
        _, tangent = session.jvp(fn, (x,), (neo.ones_like(x),))
    torch.testing.assert_close(tangent.data, x.data.exp())


def test_walk_back_along_a_forward_level_is_refused():
    level = autograd._forward.ForwardTape()
    x = number(1.0)
    level.start(x, number(1.0))
    TapeContext.push(level)
    y = x * x
    TapeContext.pop()
    assert level.tangent_of(y).item() == 2.0
    assert level.tangent_of(number(3.0)) is None
    with pytest.raises(RuntimeError, match="forward mode"):
        level.gradients([y], [number(1.0)], [x])


def test_checkpoint_and_vmap_run_their_function_once_more_for_tangents():
    runs = []

    def fn(x):
        runs.append(1)
        return torch.tanh(x) * x

    x = neo.randn((3, 2), dtype=torch.float64)
    for transform in (session.checkpoint, neo.vmap):
        runs.clear()
        _, tangent = session.jvp(transform(fn), (x,), (x,))
        assert len(runs) == 2
        torch.testing.assert_close(tangent.data, session.jvp(fn, (x,), (x,))[1].data)


def test_dropout_under_checkpoint_draws_the_same_for_tangents():
    x = neo.ones((1000,), dtype=torch.float64)
    out, tangent = session.jvp(session.checkpoint(lambda x: F.dropout(x, 0.5, True)), (x,), (x,))
    assert torch.equal(out.data, tangent.data)


def test_pullback_of_a_session_around_a_checkpoint_keeps_its_gradient():
    """What a pullback or push saved before the checkpoint moves with the session's argument, too."""
    x, v = number([1.0, 2.0]), number([0.5, 0.3])

    def outer(x, wrap):
        _, pullback = session.vjp(lambda y: (y**3).sum(), x)
        _, push = session.linearize(lambda y: y**3, x)
        pulled = wrap(lambda bar: pullback(bar)[0])(number(1.0))
        return (pulled * v).sum() + wrap(push)(v).sum()

    plain = session.grad(lambda x: outer(x, lambda f: f), argnums=0)(x)
    checkpointed = session.grad(lambda x: outer(x, session.checkpoint), argnums=0)(x)
    torch.testing.assert_close(plain.data, 12 * x.data * v.data)
    torch.testing.assert_close(checkpointed.data, plain.data)
