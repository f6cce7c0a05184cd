"""Rule 9: failure is clean, and says where, what was expected and what came."""

import pytest
import torch

import neo
from neo import autograd
from neo.autograd import Tape, TapeContext, session
from neo.errors import GradientError
from neo.functions import function
from tests.neo.autograd.policies import square


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


def d(fn):
    return session.grad(fn, argnums=0)


class Broken(autograd.Policy):
    def forward(self, x):
        return x * 1

    def backward(self, grad):
        raise ZeroDivisionError("on purpose")


def raises(error):
    def fn(x):
        raise error

    return fn


def leaves_tapes_open(x):
    TapeContext.push(Tape())
    TapeContext.push(Tape())
    raise ZeroDivisionError("on purpose")


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize(
    "how",
    [
        d,
        lambda fn: d(d(fn)),
        lambda fn: lambda x: session.vjp(fn, x),
        lambda fn: d(session.checkpoint(fn)),
        lambda fn: d(lambda x: session.checkpoint(lambda x: d(fn)(x))(x)),
        lambda fn: lambda x: session.hvp(fn, x, x),
    ],
    ids=["grad", "nested", "vjp", "checkpoint", "session in checkpoint", "hvp"],
)
def test_exception_in_fn_leaves_no_open_tape(how, error):
    with pytest.raises(error):
        how(raises(error("on purpose")))(number(1.0))
    assert TapeContext.current() is None


@pytest.mark.parametrize("fn", [function(Broken), leaves_tapes_open, session.checkpoint(function(Broken))])
def test_exception_in_backward_or_behind_open_tapes_leaves_no_open_tape(fn):
    for how in (d, lambda fn: d(d(fn))):
        with pytest.raises(ZeroDivisionError):
            how(fn)(number(1.0))
        assert TapeContext.current() is None


def test_exception_caught_inside_an_outer_session_leaves_the_outer_tape_open():
    def fn(x):
        own = TapeContext.current()
        for inner in (raises(ZeroDivisionError()), function(Broken), leaves_tapes_open):
            with pytest.raises(ZeroDivisionError):
                d(inner)(x)
            assert TapeContext.current() is own
        return x * x

    assert d(fn)(number(3.0)).item() == 6.0


def test_tapes_left_open_by_hand_are_closed_with_the_session():
    def fn(x):
        TapeContext.push(Tape())
        return x * x

    assert d(fn)(number(3.0)).item() == 6.0
    assert TapeContext.current() is None


def test_recomputation_that_fails_in_backward_leaves_no_open_tape():
    calls = []

    def fn(x):
        calls.append(x)
        if len(calls) > 1:
            raise ZeroDivisionError("on purpose")
        return x * x

    with pytest.raises(ZeroDivisionError):
        d(session.checkpoint(fn))(number(1.0))
    assert TapeContext.current() is None


def test_pop_without_an_open_tape_says_so():
    with pytest.raises(IndexError, match="no tape is open"):
        TapeContext.pop()


def returning(result):
    class Wrong(autograd.Policy):
        def forward(self, x, y):
            return x * 1 + y.sum()

        def backward(self, grad):
            return result(grad)

    return function(Wrong)


WRONG = {
    "too few": (lambda g: g, r"Wrong.backward: expected 2 gradients, .* got 1"),
    "too many": (lambda g: (g, g, g), r"Wrong.backward: expected 2 gradients, .* got 3"),
    "none at all": (lambda g: (), "expected 2 gradients, .* got 0"),
    "a number": (lambda g: (g, 0.0), r"Wrong.backward: gradient 1 must be a tensor or None, got float 0.0"),
    "shape": (lambda g: (g, g), r"Wrong.backward: gradient 1 has shape \(2,\), expected \(3,\)"),
    "dtype": (
        lambda g: (g.to(torch.float32), None),
        r"Wrong.backward: gradient 0 has dtype torch.float32, expected torch.float64",
    ),
    "device": (
        lambda g: (torch.ones(2, dtype=torch.float64, device="meta"), None),
        r"Wrong.backward: gradient 0 is on meta, expected cpu",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("order", [1, 2])
def test_wrong_gradients_are_named(name, order):
    result, message = WRONG[name]
    op, y = returning(result), number([1.0, 2.0, 3.0])
    fn = lambda x, y: op(x, y) * x  # noqa: E731
    first = lambda x: session.grad(fn, argnums=(0, 1))(x, y)[0]  # noqa: E731
    with pytest.raises(GradientError, match=message):
        (first if order == 1 else d(first))(number([1.0, 2.0]))
    assert TapeContext.current() is None


def test_none_means_no_gradient():
    g = session.grad(returning(lambda g: (g, None)), argnums=(0, 1))(
        number([1.0, 2.0]), number([1.0, 2.0, 3.0])
    )
    assert g[0].tolist() == [1.0, 1.0]
    assert g[1].tolist() == [0.0, 0.0, 0.0]


def forward_returning(result):
    class Odd(autograd.Policy):
        def forward(self, x):
            return result(x)

    return function(Odd)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda x: None, "returned NoneType"),
        (lambda x: 3.0, "returned float"),
        (lambda x: (), "empty tuple"),
        (lambda x: (x, 3), "returned int"),
        (neo.LiteTensor, "returned a LiteTensor"),
        (lambda x: torch.complex(x, x), "complex"),
    ],
)
def test_what_forward_must_not_return_is_named(result, message):
    with pytest.raises(TypeError, match=rf"Odd.forward: returned an? ?.*{message}|Odd.forward: {message}"):
        forward_returning(result)(number(1.0))


def test_forward_whose_output_requires_grad_gives_a_detached_one():
    weight = torch.ones(2, requires_grad=True)
    out = forward_returning(lambda x: x.to(torch.float32) * weight)(number([1.0, 2.0]))
    assert not out.data.requires_grad


def test_policy_without_backward_says_so_when_differentiated():
    with pytest.raises(NotImplementedError, match=r"Odd has no backward"):
        d(forward_returning(lambda x: x * 1))(number(1.0))


@pytest.mark.parametrize("given", [3, square, object, torch.sin])
def test_function_of_what_is_no_policy_is_refused(given):
    with pytest.raises(TypeError, match=r"expected a subclass of autograd\.Policy"):
        function(given)


def test_lite_tensor_in_a_dict_argument_is_refused():
    with pytest.raises(TypeError, match="argument 0 is a dict that holds a LiteTensor"):
        forward_returning(lambda tree: tree["x"])({"x": number(1.0)})


def test_missing_and_unknown_arguments_are_named():
    with pytest.raises(TypeError, match=r"Square\(x\): got an unexpected keyword argument 'z'"):
        square(x=number(1.0), z=1)
