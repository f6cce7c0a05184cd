"""Rule 4: an outer level differentiates an op by its Policy, not by the inside of its forward."""

import torch

import neo
from neo import autograd
from neo.autograd import session
from neo.functions import function


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


def d(fn):
    return session.grad(fn, argnums=0)


class StraightThrough(autograd.Policy):
    """y = round x;  x̄ = ȳ, as if y were x."""

    def forward(self, x):
        return torch.round(x)

    def backward(self, grad):
        return grad


straight_through = function(StraightThrough)


def test_straight_through_rule_is_seen_by_the_outer_level():
    # g = d/dx (r² ) = 2 r with r = round x, whose derivative by the rule is 2; of torch.round's inside it would be 0
    x = number(2.3)
    assert d(lambda x: straight_through(x) * straight_through(x))(x).item() == 4.0
    assert d(d(lambda x: straight_through(x) * straight_through(x)))(x).item() == 2.0
    assert d(d(d(lambda x: straight_through(x) * straight_through(x) * x)))(x).item() == 6.0


class HalfGradient(autograd.Policy):
    """y = x, whose gradient is halved on purpose:  x̄ = ȳ / 2."""

    def forward(self, x):
        return x * 1

    def backward(self, grad):
        return grad * 0.5


def test_wrong_on_purpose_rule_multiplies_up_through_the_orders():
    half, x = function(HalfGradient), number(3.0)
    # h = half(x): d h² = 2 h · ½ = h;  d of that is ½
    assert d(lambda x: half(x) * half(x))(x).item() == 3.0
    assert d(d(lambda x: half(x) * half(x)))(x).item() == 0.5


class SquareSlope(autograd.Policy):
    """s = 2 ȳ x, the first-order rule of the square, whose own rule says by hand: x̄ = 100 s̄ ȳ, ȳ̄ = 2 s̄ x."""

    def forward(self, grad, x):
        self.ctx.save(grad, x)
        return grad * x * 2

    def backward(self, s_bar):
        grad, x = self.ctx.release
        return s_bar * x * 2, s_bar * grad * 100


class SquareByHand(autograd.Policy):
    def forward(self, x):
        self.ctx.save(x)
        return x * x

    def backward(self, grad):
        (x,) = self.ctx.release
        return function(SquareSlope)(grad, x)


def test_second_order_rule_is_the_one_given_by_hand():
    square, x = function(SquareByHand), number(3.0)
    assert d(square)(x).item() == 6.0
    assert d(d(square))(x).item() == 100.0


def test_second_order_rule_by_hand_serves_the_cotangent_too():
    square, x = function(SquareByHand), number(3.0)
    # d/dx [2 (3x) x] with the cotangent 3 x: 100 · 3x from x, 2 x · 3 from the cotangent
    slope = d(lambda x: session.grad(square, argnums=0, cotangent=x * 3)(x))(x)
    assert slope.item() == 100.0 * 9.0 + 2 * 3.0 * 3.0


def test_closed_over_lite_tensor_in_backward_is_seen_by_the_outer_level():
    temperature = number(2.0)

    def fn(t):
        class Tempered(autograd.Policy):
            def forward(self, x):
                return x * 1

            def backward(self, grad):
                return grad * t * t

        return session.grad(function(Tempered), argnums=0)(number(1.0))

    assert d(fn)(temperature).item() == 4.0
