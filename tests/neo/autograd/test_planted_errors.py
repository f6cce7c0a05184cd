"""gradcheck finds wrong rules planted among right ones, and names the Policy at fault.

Each mistake is one that somebody has made: a lost sign, a lost term of the product rule, a rule that is right at first
order alone. It is planted in an expression of right ops, so that naming the culprit takes more than naming fn.
"""

from __future__ import annotations

import pytest
import torch

import neo
from neo import autograd
from neo.autograd import session
from neo.errors import GradcheckError
from neo.functions import function
from tests.neo.autograd.policies import square


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return neo.LiteTensor(torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5)


class LostSign(autograd.Policy):
    """y = cos x with x̄ = ȳ sin x."""

    def forward(self, x):
        self.ctx.save(x)
        return torch.cos(x)

    def backward(self, grad):
        (x,) = self.ctx.release
        return grad * torch.sin(x)


class LostFactor(autograd.Policy):
    """y = x² with x̄ = ȳ x."""

    def forward(self, x):
        self.ctx.save(x)
        return x * x

    def backward(self, grad):
        (x,) = self.ctx.release
        return grad * x


class IgnoredCotangent(autograd.Policy):
    """y = sin x with x̄ = cos x: right where ȳ is one."""

    def forward(self, x):
        self.ctx.save(x)
        return torch.sin(x)

    def backward(self, grad):
        (x,) = self.ctx.release
        return torch.cos(x) + grad * 0


class Swapped(autograd.Policy):
    """z = x² y with the gradients of x and y in each other's place."""

    def forward(self, x, y):
        self.ctx.save(x, y)
        return x * x * y

    def backward(self, grad):
        x, y = self.ctx.release
        return grad * x * x, grad * x * y * 2


class LostInput(autograd.Policy):
    """z = x y with no gradient for y."""

    def forward(self, x, y):
        self.ctx.save(x, y)
        return x * y

    def backward(self, grad):
        _, y = self.ctx.release
        return grad * y, None


class NotTransposed(autograd.Policy):
    """z = A B with Ā = Z̄ B: shapes agree, for the matrices are square."""

    def forward(self, A, B):
        self.ctx.save(A, B)
        return A @ B

    def backward(self, grad):
        A, B = self.ctx.release
        return grad @ B, A.T @ grad


class OneEntry(autograd.Policy):
    """y = e^x, but the last entry's gradient is a hundredth too large."""

    def forward(self, x):
        y = torch.exp(x)
        self.ctx.save(y, self.ctx.constant(torch.ones_like(x).index_fill(-1, torch.tensor([-1]), 1.01)))
        return y

    def backward(self, grad):
        y, off = self.ctx.release
        return grad * y * off


class LostOutput(autograd.Policy):
    """(sin x, cos x) with the second output's cotangent forgotten."""

    def forward(self, x):
        s, c = torch.sin(x), torch.cos(x)
        self.ctx.save(s, c)
        return s, c

    def backward(self, s_bar, c_bar):
        _, c = self.ctx.release
        return s_bar * c


class LostSumOfSoftmax(autograd.Policy):
    """y = softmax x with x̄ = y ȳ, the sum that normalises taken for a constant."""

    def forward(self, x):
        y = torch.softmax(x, -1)
        self.ctx.save(y)
        return y

    def backward(self, grad):
        (y,) = self.ctx.release
        return grad * y


class MeanForSum(autograd.Policy):
    """y = x W with W̄ averaged over rows instead of summed."""

    def forward(self, x, W):
        self.ctx.save(x, W)
        return x @ W

    def backward(self, grad):
        x, W = self.ctx.release
        return grad @ W.T, x.T @ grad / len(x)


class NotANumber(autograd.Policy):
    """y = x² with x̄ = 2 ȳ x² / x − 0/0 …"""

    def forward(self, x):
        self.ctx.save(x)
        return x * x

    def backward(self, grad):
        (x,) = self.ctx.release
        return grad * x * 2 * ((x - x) / (x - x))


class FirstOrderAlone(autograd.Policy):
    """y = x³ with x̄ = 3 ȳ x², the x² marked a constant, which it is not: wrong from the second order on."""

    def forward(self, x):
        squared = self.ctx.constant(x * x)
        self.ctx.save(squared)
        return squared * x

    def backward(self, grad):
        (squared,) = self.ctx.release
        return grad * squared * 3


class ReadsTheData(autograd.Policy):
    """y = x⁴ with x̄ = 4 ȳ x³, x³ computed on raw data behind the tape's back: wrong from the second order on."""

    def forward(self, x):
        self.ctx.save(x)
        return x**4

    def backward(self, grad):
        (x,) = self.ctx.release
        raw = x.data if isinstance(x, neo.LiteTensor) else x
        return grad * (4 * raw**3)


class WrongSecondRule(autograd.Policy):
    """x̄ = 2 ȳ x as an op of its own, whose gradient for ȳ lacks the 2."""

    def forward(self, y_bar, x):
        self.ctx.save(y_bar, x)
        return 2 * y_bar * x

    def backward(self, v):
        y_bar, x = self.ctx.release
        return v * x, 2 * v * y_bar


class ByHand(autograd.Policy):
    """y = x², whose backward calls WrongSecondRule."""

    def forward(self, x):
        self.ctx.save(x)
        return x * x

    def backward(self, grad):
        (x,) = self.ctx.release
        return function(WrongSecondRule)(grad, x)


class ThirdOrder(autograd.Policy):
    """y = x⁴/12 with x̄ = ȳ · (an op that is right to first order alone): wrong from the third order on."""

    def forward(self, x):
        self.ctx.save(x)
        return x**4 / 4

    def backward(self, grad):
        (x,) = self.ctx.release
        return grad * function(FirstOrderAlone)(x)


X, Y, A, B = draw(4), draw(4, seed=1), draw(3, 3), draw(3, 3, seed=1)
# the Policy, its arguments, the order at which it shows, the input of fn that it goes wrong by
PLANTED = [
    (LostSign, (X,), 1, 0),
    (LostFactor, (X,), 1, 0),
    (IgnoredCotangent, (X,), 1, 0),
    (Swapped, (X, Y), 1, 0),
    (LostInput, (X, Y), 1, 1),
    (NotTransposed, (A, B), 1, 0),
    (OneEntry, (X,), 1, 0),
    (LostOutput, (X,), 1, 0),
    (LostSumOfSoftmax, (X,), 1, 0),
    (MeanForSum, (A, B), 1, 1),
    (NotANumber, (X,), 1, 0),
    (FirstOrderAlone, (X,), 2, 0),
    (ReadsTheData, (X,), 2, 0),
    (ByHand, (X,), 2, 0),
    (ThirdOrder, (X,), 3, 0),
]
IDS = [policy.__name__ for policy, *_ in PLANTED]


def among_right_ops(policy):
    op = function(policy)

    def expression(*args):
        moved = [torch.tanh(arg) + arg * 0.1 for arg in args]
        out = op(*moved)
        out = out[0] * torch.exp(out[1]) if isinstance(out, tuple) else out
        return torch.sin(square(out) + out).sum() * 0.5

    return expression


@pytest.mark.parametrize("fast", [False, True], ids=["every entry", "fast"])
@pytest.mark.parametrize(("policy", "args", "order", "place"), PLANTED, ids=IDS)
def test_planted_rule_is_found_at_its_order_and_named(policy, args, order, place, fast):
    fn = among_right_ops(policy)
    assert order == 1 or session.gradcheck(fn, args, order=order - 1, fast=fast)
    with pytest.raises(GradcheckError) as caught:
        session.gradcheck(fn, args, order=order, fast=fast)
    message = str(caught.value)
    # input and entry, expected and got, the Policy and where its rule is written
    assert f"order {order}: the gradient of input {place}, entry (" in message
    assert "expected" in message
    assert "got" in message
    assert f"The fault is in Policy {policy.__name__}, {__file__}:" in message
    assert autograd.TapeContext.current() is None


def test_second_order_rule_is_named_beside_the_policy_that_calls_it():
    with pytest.raises(
        GradcheckError, match=r"Policy ByHand.* of Policy WrongSecondRule, which its backward calls"
    ):
        session.gradcheck(among_right_ops(ByHand), (X,))


@pytest.mark.parametrize(("policy", "args", "order", "place"), PLANTED[:3], ids=IDS[:3])
def test_planted_rule_in_an_inner_loop_is_named(policy, args, order, place):
    fn = among_right_ops(policy)

    def after_adaptation(theta):
        for _ in range(2):
            theta = theta - session.grad(fn, argnums=0)(theta) * 0.1
        return (theta * theta).sum()

    with pytest.raises(GradcheckError, match=f"The fault is in Policy {policy.__name__}"):
        session.gradcheck(after_adaptation, args)


def test_right_expressions_pass_though_backward_counts_on_constants():
    """batch_norm's backward takes statistics as constants that are none; nobody is to blame for that."""

    def fn(x, w):
        y = neo.functions.batch_norm(x, weight=w, training=True)
        return torch.sin(function(LostSign)(y)).sum()

    x, w = draw(5, 2), draw(2)
    with pytest.raises(GradcheckError, match="The fault is in Policy LostSign"):
        session.gradcheck(lambda x, w: session.grad(fn, argnums=0)(x, w), (x, w))


def test_function_that_goes_behind_the_tape_is_told_so():
    with pytest.raises(
        GradcheckError, match=r"No op that fn calls is off by itself\. Does fn take numbers out"
    ):
        session.gradcheck(lambda x: x * neo.LiteTensor(x.data), (X,))


def test_kink_is_not_called_a_mistake():
    tied = neo.LiteTensor([1.0, 1.0, 0.0], dtype=torch.float64)
    with pytest.raises(GradcheckError, match=r"Neo's own Policy \w+, tried alone, disagrees .* A kink there"):
        session.gradcheck(lambda x: torch.relu(x * 2).sum(), (tied,))


def test_fast_passes_what_is_right_and_costs_few_calls():
    calls = []

    def fn(x, w):
        calls.append(1)
        return torch.tanh(x @ w)

    assert session.gradcheck(fn, (draw(20, 30), draw(30, 10)), order=2, fast=True)
    assert len(calls) < 40
