"""Rule 11: torch.no_grad and its kin inside a session make constants; around a session they change nothing."""

import pytest
import torch

import neo
from neo.autograd import Tape, TapeContext

X = torch.tensor([0.4, -1.3, 2.2], dtype=torch.float64)

MODES = {
    "no_grad": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "inference_mode": torch.inference_mode,
}


@pytest.fixture(params=MODES, ids=str)
def mode(request):
    return MODES[request.param]


def lite():
    return neo.LiteTensor(X.clone())


def grad(fn):
    return neo.grad(fn, argnums=0)


def same(found, expected):
    torch.testing.assert_close(found.data, expected, rtol=1e-12, atol=1e-12)


def shifted(mode):
    def fn(x):
        with mode():
            s = x**2
        return (x**2 * s).sum()

    return fn


def test_block_inside_a_session_makes_constants_at_every_order(mode):
    same(grad(shifted(mode))(lite()), 2 * X**3)
    # the gradient 2 x s of x² s is differentiated with s = x² held fixed by each session that it is inside of
    same(grad(lambda x: grad(shifted(mode))(x).sum())(lite()), 2 * X**2)


def test_decorated_function_makes_constants(mode):
    @mode()
    def target(x):
        return x.exp()

    same(grad(lambda x: ((x - target(x)) ** 2).sum())(lite()), 2 * (X - X.exp()))


def test_block_around_a_session_changes_nothing(mode):
    with mode():
        same(grad(lambda x: (x**3).sum())(lite()), 3 * X**2)
        same(grad(lambda x: grad(lambda y: (y**3).sum())(x).sum())(lite()), 6 * X)
        same(neo.hvp(lambda x: (x**3).sum(), lite(), torch.ones_like(X)), 6 * X)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_session_in_a_block_is_a_constant_to_the_session_around_it(mode):
    """First-order MAML as it is often written."""

    def loss(w):
        return (w**4).sum()

    def first_order(w):
        with mode():
            step = grad(loss)(w)
        return loss(w - 0.1 * step)

    same(grad(first_order)(lite()), 4 * (X - 0.4 * X**3) ** 3)
    assert grad(lambda w: loss(w - 0.1 * grad(loss)(w)))(lite()).data.ne(4 * (X - 0.4 * X**3) ** 3).all()


def test_enable_grad_in_a_block_records_again():
    def fn(x):
        with torch.no_grad():
            s = x**2
            with torch.enable_grad():
                t = x**2
        return (s + t).sum()

    same(grad(fn)(lite()), 2 * X)


def test_set_grad_enabled_as_a_statement_holds_until_it_is_undone_and_ends_with_the_session():
    def fn(x):
        torch.set_grad_enabled(False)
        s = x**2
        torch.set_grad_enabled(True)
        return (x * s).sum()

    same(grad(fn)(lite()), X**2)
    assert torch.is_grad_enabled()


def test_other_transforms_take_the_block_for_a_constant(mode):
    fn = shifted(mode)
    same(neo.vjp(fn, lite())[1](torch.tensor(1.0, dtype=torch.float64))[0], 2 * X**3)
    same(neo.jvp(fn, (lite(),), (torch.ones_like(X),))[1], (2 * X**3).sum())
    same(grad(neo.checkpoint(fn))(lite()), 2 * X**3)
    same(grad(lambda x: neo.vmap(fn)(torch.stack([x, 2 * x])).sum())(lite()), 2 * X**3 + 2 * 16 * X**3)


def test_pullback_called_in_a_block_gives_gradients_that_are_constants(mode):
    def fn(x):
        _, pullback = neo.vjp(lambda y: (y**3).sum(), x)
        with mode():
            (g,) = pullback(torch.tensor(1.0, dtype=torch.float64))
        return (g * x).sum()

    same(grad(fn)(lite()), 3 * X**2)


def test_exception_inside_leaves_the_modes_as_they_were(mode):
    with mode():
        with pytest.raises(ZeroDivisionError):
            grad(lambda x: 1 / 0)(lite())
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert TapeContext.current() is None


def test_result_that_is_all_constant_has_zero_gradient(mode):
    def fn(x):
        with mode():
            return (x**2).sum()

    same(grad(fn)(lite()), torch.zeros_like(X))


def test_tape_opened_by_hand_follows_the_modes():
    x, tape = lite(), Tape()
    tape.watch(x)
    TapeContext.push(tape)
    with torch.no_grad():
        s = x * 2
    y = x * 3
    assert TapeContext.pop() is tape
    assert s not in tape
    assert y in tape
