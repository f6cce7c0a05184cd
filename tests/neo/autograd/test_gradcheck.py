"""gradcheck finds planted errors and says where; it passes what is right."""

import pytest
import torch

import neo
from neo import autograd
from neo.autograd import session
from neo.errors import GradcheckError
from neo.functions import function
from tests.neo.autograd.policies import affine, cube, sincos


def draw(*shape):
    generator = torch.Generator().manual_seed(len(shape))
    return neo.LiteTensor(torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_right_rules_pass_at_every_order(order):
    assert session.gradcheck(affine, (draw(2, 3), draw(3, 2), draw(2)), order=order)
    assert session.gradcheck(lambda x: torch.sin(cube(x)), (draw(3),), order=order)
    assert session.gradcheck(sincos, draw(2), order=order)
    assert session.gradcheck(
        lambda t, n: {"a": t["x"] * n, "b": [t["x"] ** 2]}, ({"x": draw(2)}, 3), order=order
    )


def test_a_whole_inner_loop_passes():
    def adapted_loss(theta, x):
        for _ in range(3):
            theta = theta - session.grad(lambda t: (torch.tanh(t * x) ** 2).sum(), argnums=0)(theta) * 0.1
        return (theta * x).sum()

    assert session.gradcheck(adapted_loss, (draw(3), draw(3)), order=2)


def test_error_in_one_entry_is_found_and_named():
    class Planted(autograd.Policy):
        def forward(self, x, y):
            self.ctx.save(x, y)
            return x * y

        def backward(self, grad):
            x, y = self.ctx.release
            off = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.01, 1.0]], dtype=torch.float64)
            return grad * y, grad * x * off

    with pytest.raises(
        GradcheckError,
        match=r"gradcheck\(Planted\): order 1: the gradient of input 1, entry \(1, 1\), is off",
    ):
        session.gradcheck(function(Planted), (draw(2, 3), draw(2, 3)))


def test_error_in_a_leaf_of_a_tree_is_named_by_its_path():
    class Off(autograd.Policy):
        def forward(self, x):
            return x * 1

        def backward(self, grad):
            return grad * 2

    off = function(Off)
    with pytest.raises(GradcheckError, match=r"input 0\['b'\]\[1\], entry \(0,\)"):
        session.gradcheck(
            lambda tree: tree["a"] + off(tree["b"][1]), ({"a": draw(2), "b": [draw(2), draw(2)]},)
        )


class WrongSlope(autograd.Policy):
    """The rule of x ↦ x³ at order 1; its own gradient lacks the factor of the chain rule."""

    def forward(self, grad, x):
        self.ctx.save(grad, x)
        return grad * x * x * 3

    def backward(self, s_bar):
        grad, x = self.ctx.release
        return s_bar * x * x * 3, s_bar * grad * x * 5


class RightAtFirst(autograd.Policy):
    def forward(self, x):
        self.ctx.save(x)
        return x * x * x

    def backward(self, grad):
        (x,) = self.ctx.release
        return function(WrongSlope)(grad, x)


def test_error_at_second_order_is_found_at_order_two_alone():
    op = function(RightAtFirst)
    assert session.gradcheck(op, (draw(2),), order=1)
    with pytest.raises(GradcheckError, match=r"order 2: the gradient of input 0, entry \(0,\)"):
        session.gradcheck(op, (draw(2),), order=2)


def test_error_at_third_order_is_found_at_order_three_alone():
    def fn(x):
        return session.grad(function(RightAtFirst), argnums=0)(x)

    # fn's own first order is the wrong rule; hide it behind one more right level
    class Late(autograd.Policy):
        """y = x⁴/4 with x̄ = ȳ RightAtFirst(x): wrong from the third order on."""

        def forward(self, x):
            self.ctx.save(x)
            return x**4 / 4

        def backward(self, grad):
            (x,) = self.ctx.release
            return grad * function(RightAtFirst)(x)

    op = function(Late)
    assert session.gradcheck(op, (draw(2),), order=2)
    with pytest.raises(GradcheckError, match="order 3"):
        session.gradcheck(op, (draw(2),), order=3)


def test_nan_gradient_is_found():
    class NotANumber(autograd.Policy):
        def forward(self, x):
            return x * 1

        def backward(self, grad):
            return grad * float("nan")

    with pytest.raises(GradcheckError, match="got nan"):
        session.gradcheck(function(NotANumber), (draw(1),), order=1)


def test_inputs_that_are_not_float64_are_refused():
    with pytest.raises(TypeError, match=r"input 1\['w'\] is torch.float32; finite differences need float64"):
        session.gradcheck(lambda x, t: x * t["w"], (draw(2), {"w": neo.LiteTensor([1.0, 2.0])}))


def test_nothing_to_check_and_order_zero_are_refused():
    with pytest.raises(TypeError, match="at least one floating-point LiteTensor"):
        session.gradcheck(cube, (3.0,))
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        session.gradcheck(cube, draw(1), order=0)
