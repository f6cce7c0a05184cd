"""Bad input is named where the user wrote it: what is wrong with it, what was expected, and what to do."""

from __future__ import annotations

import traceback

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import autograd
from neo.autograd import TapeContext, session
from neo.errors import GradientError
from neo.functions import function

X = neo.LiteTensor([1.0, 2.0, 3.0], dtype=torch.float64)
WHOLE = neo.LiteTensor([1, 2, 3])


def square(x):
    return x * x


INTEGERS = {
    "value_and_grad": lambda: session.value_and_grad(square)(WHOLE),
    "grad by argnums": lambda: session.grad(square, argnums=0)(WHOLE),
    "grad of a tree": lambda: session.grad(lambda t: t["x"] * 2.0, argnums=0)({"x": WHOLE}),
    "vjp": lambda: session.vjp(square, WHOLE),
    "jvp": lambda: session.jvp(square, (WHOLE,), (None,)),
    "hvp": lambda: session.hvp(square, WHOLE, X),
    "jacobian": lambda: session.jacobian(square)(WHOLE),
    "hessian": lambda: session.hessian(square)(WHOLE),
    "integer output": lambda: session.grad(lambda x: torch.argmax(x))(X),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_asked_for_gradients_are_named(name):
    with pytest.raises(TypeError, match=r"torch\.int64") as caught:
        INTEGERS[name]()
    assert "floating-point" in str(caught.value)
    assert points_here(caught.value)
    assert TapeContext.current() is None


def test_integer_jvp_tangent_is_named():
    with pytest.raises(
        ValueError, match=r"argument 1 is a constant \(LiteTensor of torch\.int64, shape \(3,\)\)"
    ):
        session.jvp(lambda x, n: x * n, (X, WHOLE), (X, X))


COMPLEX = {
    "tensor": lambda: neo.LiteTensor(torch.ones(2, dtype=torch.complex64)),
    "number": lambda: X * 1j,
    "torch tensor": lambda: torch.add(X, torch.ones(3, dtype=torch.complex128)),
    "op of Neo": lambda: neo.functions.matmul(X, torch.ones(3, dtype=torch.complex128)),
    "dtype": lambda: X.to(torch.complex64),
    "in a session": lambda: session.grad(lambda x: x * torch.ones(3, dtype=torch.complex64))(X),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_numbers_are_refused_by_name(name):
    with pytest.raises(
        (TypeError, NotImplementedError, RuntimeError), match=r"(?i)\w+.*: .*complex"
    ) as caught:
        COMPLEX[name]()
    assert points_here(caught.value)


TORCH_WORDS = {
    "matmul": (
        lambda: torch.ones(2, 3) @ neo.ones(2, 3),
        r"matmul: mat1 and mat2 shapes cannot be multiplied",
    ),
    "add": (lambda: neo.ones(2) + neo.ones(3), r"add: The size of tensor a \(2\) must match"),
    "conv2d": (lambda: F.conv2d(neo.ones(1, 2, 4, 4), neo.ones(1, 3, 3, 3)), r"conv.*: Given groups=1"),
    "dtype": (lambda: F.linear(neo.ones(2, 3), X.reshape((1, 3))), r"linear|matmul: .*dtype"),
    "cross_entropy": (
        lambda: F.cross_entropy(neo.ones(2, 3), torch.tensor([0, 7])),
        r"cross_entropy: Target 7 is out of bounds",
    ),
}


@pytest.mark.parametrize("name", TORCH_WORDS)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a session"])
def test_wrong_shapes_and_dtypes_give_torchs_words_behind_the_ops_name(name, inside):
    call, message = TORCH_WORDS[name]
    with pytest.raises((RuntimeError, IndexError), match=message) as caught:
        session.grad(lambda x: call())(X) if inside else call()
    assert points_here(caught.value)


def returning(result):
    class Wrong(autograd.Policy):
        def forward(self, x, y):
            return x * 1 + y.sum()

        def backward(self, grad):
            return result(grad)

    return function(Wrong)


GRADIENTS = {
    "number": (lambda g: g, "expected 2 gradients"),
    "shape": (lambda g: (g, g.sum()), r"gradient 1 has shape \(\)"),
    "dtype": (lambda g: (g.to(torch.float32), g), "gradient 0 has dtype"),
    "device": (lambda g: (torch.ones(3, dtype=torch.float64, device="meta"), g), "gradient 0 is on meta"),
    "type": (lambda g: (1.0, g), "gradient 0 must be a tensor"),
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("order", [1, 2])
def test_wrong_gradients_name_the_policy_and_where_its_backward_is_written(name, order):
    result, message = GRADIENTS[name]
    fn = session.grad(lambda x, y: returning(result)(x, y), argnums=(0, 1))
    with pytest.raises(GradientError, match=rf"Wrong\.backward: .*{message}") as caught:
        fn(X, X) if order == 1 else session.grad(lambda x: fn(x, x)[0] * x, argnums=0)(X)
    backward = returning(result).policy.backward.__code__
    assert caught.value.__notes__ == [f"The rule is at {__file__}:{backward.co_firstlineno}."]
    assert points_here(caught.value)


def test_error_inside_backward_shows_the_line_of_backward():
    class Odd(autograd.Policy):
        def forward(self, x):
            return x * 1

        def backward(self, grad):
            return grad @ torch.ones(7, 7, dtype=torch.float64)  # the line

    with pytest.raises(RuntimeError) as caught:
        session.grad(function(Odd))(X)
    assert any(
        "# the line" in (frame.line or "") for frame in traceback.extract_tb(caught.value.__traceback__)
    )


def points_here(error):
    """Whether the traceback passes through a line of this file below the test function itself: the user's line."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
    return len(frames) >= 1
