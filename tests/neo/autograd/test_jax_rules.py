"""What JAX's own tests of custom_jvp, custom_vjp (a Policy here) and checkpoint try, where other tests here do not.

A rule that is wrong on purpose shows itself wherever it is used: under vmap in any order with sessions, after a session
has given the value alone, in both branches of an if. Rules that close over what is differentiated or batched around
them, give None, take functions, or use vmap. Checkpoint: how often it recomputes, free variables, no arguments.
"""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch

import neo
from neo import autograd
from neo.autograd import session
from neo.errors import SessionError
from neo.functions import function


def number(value):
    return neo.LiteTensor(torch.as_tensor(value, dtype=torch.float64))


def d(fn, argnums=0):
    return session.grad(fn, argnums=argnums)


def push(fn, x, v):
    return session.jvp(fn, (x,), (v,))[1]


def close(got, expected):
    torch.testing.assert_close(got.data, torch.as_tensor(expected, dtype=torch.float64))


X, ONE = number([0.5, -1.0, 2.0]), number(1.0)
ROWS = number(torch.arange(6.0).reshape(2, 3))


@function
class TwiceSin(autograd.Policy):
    """sin x, with twice its derivative."""

    def forward(self, x):
        self.ctx.save(x)
        return torch.sin(x)

    def backward(self, grad):
        (x,) = self.ctx.release
        return 2 * torch.cos(x) * grad


@function
class Pushed(autograd.Policy):
    """cos(2 x) / 2, with a derivative of 3 in both modes."""

    def forward(self, x):
        return torch.cos(2 * x) / 2

    def backward(self, grad):
        return 3 * grad

    def jvp(self, tangent):
        return 3 * tangent


@function
class Branching(autograd.Policy):
    """sin x with a derivative of 2 above zero, cos x with one of 3 below."""

    def forward(self, x):
        self.ctx.save(x)
        return torch.sin(x) if x > 0 else torch.cos(x)

    def backward(self, grad):
        (x,) = self.ctx.release
        return 2 * grad if x > 0 else 3 * grad


@function
class Applied(autograd.Policy):
    """fn(x) for any fn, with a derivative of 3."""

    def forward(self, fn, x):
        return fn(x)

    def backward(self, grad):
        return 3 * grad


@function
class Sided(autograd.Policy):
    """x sin y, of which y alone has a gradient, and twice that."""

    def forward(self, x, y):
        self.ctx.save(y)
        return x * torch.sin(y)

    def backward(self, grad):
        (y,) = self.ctx.release
        return [None, 2 * torch.cos(y) * grad]


# --- the rule goes along ---------------------------------------------------------------------------------------------

vmap = session.vmap
WAYS = {  # of the rule's derivative 2 cos x times x, entry by entry of a matrix
    "grad of vmap": lambda xx: d(lambda xx: vmap(vmap(TwiceSin))(xx).sum())(xx) * xx,
    "vmap of grad": lambda xx: vmap(vmap(d(TwiceSin)))(xx) * xx,
    "vmap of grad of vmap": lambda xx: vmap(d(lambda x: vmap(TwiceSin)(x).sum()))(xx) * xx,
    "jvp of vmap": lambda xx: push(vmap(vmap(TwiceSin)), xx, xx),
    "vmap of jvp": lambda xx: vmap(vmap(lambda x: push(TwiceSin, x, x)))(xx),
    "vmap of jvp of vmap": lambda xx: vmap(lambda x: push(vmap(TwiceSin), x, x))(xx),
    "vmap of linearize": lambda xx: vmap(lambda x: session.linearize(TwiceSin, x)[1](x))(xx),
    "vmap of a checkpoint": lambda xx: vmap(d(session.checkpoint(TwiceSin)))(xx) * xx,
}


@pytest.mark.parametrize("way", WAYS)
def test_rule_goes_through_vmap_in_any_order(way):
    close(WAYS[way](ROWS), 2 * ROWS.data.cos() * ROWS.data)
    slope = 2 * (ROWS.data.cos() - ROWS.data * ROWS.data.sin())
    close(d(lambda xx: WAYS[way](xx))(ROWS), slope)


def test_value_that_a_session_gives_keeps_the_rule():
    forward = lambda fn: lambda x: session.jvp(fn, (x,), (x,))[0]  # noqa: E731
    reverse = lambda fn: lambda x: session.value_and_grad(fn, 0)(x)[0]  # noqa: E731
    fns = [
        Pushed,
        forward(Pushed),
        forward(forward(Pushed)),
        reverse(Pushed),
        reverse(forward(reverse(Pushed))),
    ]
    for fn in fns:
        close(fn(ONE), math.cos(2.0) / 2)
        close(d(fn)(ONE), 3.0)
        close(push(fn, ONE, ONE), 3.0)
        close(session.jacobian(fn, mode="forward")(ONE), 3.0)


@pytest.mark.parametrize(("x", "value", "slope"), [(2.0, math.sin(2.0), 2.0), (-2.0, math.cos(2.0), 3.0)])
def test_rule_may_branch_on_numbers(x, value, slope):
    x = number(x)
    close(Branching(x), value)
    close(d(Branching)(x), slope)
    close(push(Branching, x, ONE), slope)
    close(d(lambda x: d(Branching)(x) * x)(x), slope)
    with pytest.raises(RuntimeError, match=r"Branching.*control flow"):
        vmap(Branching)(X)


def test_copies_and_partials_of_a_function_have_its_rule():
    close(d(copy.deepcopy(TwiceSin))(X), 2 * X.data.cos())
    close(d(functools.partial(Applied, lambda y: y * 2))(X), [3.0] * 3)
    assert TwiceSin.__name__ == "TwiceSin"


# --- arguments that are no tensors, gradients that are none ----------------------------------------------------------


def test_function_is_an_argument_like_any_other():
    out, dot = session.jvp(lambda x: Applied(lambda y: 2 * y, x), (X,), (X,))
    close(out, 2 * X.data)
    close(dot, 3 * X.data)
    with pytest.raises(SessionError, match="Pass it to the Policy as an argument"):
        d(lambda x: Applied(lambda y: y * x, x))(X)


def test_none_is_zero_also_in_a_batch():
    close(d(lambda x: Sided(x, x))(X), 2 * X.data.cos())
    close(d(lambda x: vmap(Sided)(x, x))(X), 2 * X.data.cos())
    close(vmap(d(lambda x: Sided(x, x)))(X), 2 * X.data.cos())
    gx, gy = vmap(d(Sided, (0, 1)))(X, X)
    close(gx, [0.0] * 3)
    close(gy, 2 * X.data.cos())
    close(d(lambda x: d(Sided, 1)(x, x).sum())(X), -2 * X.data.sin())


def test_bound_of_a_clipped_gradient_may_depend_on_the_argument():
    class Clip(autograd.Policy):
        def forward(self, low, high, x):
            self.ctx.save(high)
            self.low = low
            return x.clone()

        def backward(self, grad):
            (high,) = self.ctx.release
            return None, torch.minimum(torch.clamp(grad, min=self.low), high)

    clip = function(Clip)
    for fn in (lambda x: clip(-0.1, x + 0.1, x), session.checkpoint(lambda x: clip(-0.1, x + 0.1, x))):
        close(d(fn)(number(0.1)), 0.2)
        close(d(d(fn))(number(0.1)), 1.0)
        close(vmap(d(fn))(X), torch.minimum(torch.ones(3, dtype=torch.float64), X.data + 0.1))


def test_rule_of_a_constant_forward():
    class Zeros(autograd.Policy):
        def forward(self, x):
            return torch.zeros_like(x)

        def backward(self, grad):
            return grad

    zeros = function(Zeros)
    close(vmap(d(zeros))(X), [1.0] * 3)
    close(d(lambda x: vmap(zeros)(x).sum())(X), [1.0] * 3)
    close(push(vmap(zeros), X, X), X.data)


# --- what a rule closes over -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True], ids=["closed over", "an argument"])
def test_rule_may_use_what_is_differentiated_or_batched_around_it(saved):
    def outer(y):
        class Borrowing(autograd.Policy):
            def forward(self, x, *given):
                self.ctx.save(*given)
                return 2 * torch.sin(x)

            def backward(self, grad):
                (z,) = self.ctx.release if saved else (y,)
                return (2 * torch.cos(z) * grad, *([None] if saved else []))

        return d(lambda x: function(Borrowing)(x, *([y] if saved else [])))(ONE)

    y, cos, sin = number(4.0), 2 * X.data.cos(), -2 * X.data.sin()
    close(outer(y), 2 * math.cos(4.0))
    close(d(outer)(y), -2 * math.sin(4.0))
    close(push(outer, y, ONE), -2 * math.sin(4.0))
    close(vmap(outer)(X), cos)
    close(vmap(d(outer))(X), sin)
    close(d(lambda x: vmap(outer)(x).sum())(X), sin)


def test_policy_made_inside_a_batch_is_differentiated_outside_of_it():
    def outer(z):
        def each(x):
            class Times(autograd.Policy):
                def forward(self, y):
                    return x.data * y

                def backward(self, grad):
                    return x * grad

            return function(Times)(z)

        return vmap(each)(X)

    close(push(outer, ONE, number(2.0)), 2 * X.data)
    close(d(lambda z: outer(z).sum())(ONE), X.data.sum())


def test_rule_may_use_vmap():
    class Squares(autograd.Policy):
        def forward(self, x):
            self.ctx.save(x)
            return (x**2).sum()

        def backward(self, grad):
            (x,) = self.ctx.release
            return vmap(lambda entry: 2 * entry * grad)(x)

    squares = function(Squares)
    close(d(squares)(X), 2 * X.data)
    close(session.hessian(squares)(X), 2 * torch.eye(3))
    close(session.hessian(squares, mode="forward")(X), 2 * torch.eye(3))
    close(vmap(d(squares))(ROWS), 2 * ROWS.data)


def test_projection_whose_rule_needs_its_support_alone():
    class Simplex(autograd.Policy):
        """The nearest point of the unit simplex; its Jacobian is diag(s) − s sᵀ / |s| on the support s."""

        def forward(self, x):
            falling = torch.sort(x, descending=True).values
            excess = torch.cumsum(falling, 0) - 1
            shift = (
                excess / torch.arange(1, len(x) + 1)
            ).max()  # of all supports, the right one's is the largest
            out = torch.relu(x - shift)
            self.ctx.constant((out > 0).to(x.dtype))
            return out

        def backward(self, grad):
            (support,) = self.ctx.release
            return support * (grad - (support * grad).sum() / support.sum())

    project, x = function(Simplex), number([0.1, 0.9, 0.3, -0.2, 0.5])
    support = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    close(project(x).sum(), 1.0)
    jacobian = torch.diag(support) - torch.outer(support, support) / 3
    for mode in ("reverse", "forward"):
        close(session.jacobian(project, mode=mode)(x), jacobian)
    close(vmap(session.jacobian(project))(torch.stack([x, x + 1])), torch.stack([jacobian, jacobian]))


# --- checkpoint ------------------------------------------------------------------------------------------------------


def halves(fns, wrap):
    """The composition of fns, made of two halves, those of halves again."""
    if len(fns) == 1:
        return fns[0]
    after, before = halves(fns[: len(fns) // 2], wrap), halves(fns[len(fns) // 2 :], wrap)
    return wrap(after, before, len(fns))


@pytest.mark.parametrize(("count", "again"), [(4, 2), (8, 8), (16, 24)])
def test_checkpoints_in_checkpoints_recompute_no_more_than_they_must(count, again):
    runs = []

    class Step(autograd.Policy):
        def forward(self, x):
            runs.append(1)
            return x + 1

        def backward(self, grad):
            return grad

    def second_half_anew(after, before, size):
        return (lambda x: after(before(x))) if size == 2 else (lambda x: after(session.checkpoint(before)(x)))

    _, pullback = session.vjp(halves([function(Step)] * count, second_half_anew), ONE)
    assert len(runs) == count
    runs.clear()
    pullback(1.0)
    assert len(runs) == again


DERIVATIVES = {
    "grad": d,
    "second": lambda fn: d(d(fn)),
    "third": lambda fn: d(d(d(fn))),
    "linearize": lambda fn: lambda x: session.linearize(fn, x)[1](ONE),
    "hessian": lambda fn: session.hessian(fn, mode="forward"),
    "vmap": lambda fn: lambda x: vmap(d(fn))(x.reshape(1))[0],
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_checkpoints_in_checkpoints_are_right_at_every_order(name):
    nested = halves([torch.sin] * 4, lambda after, before, _: session.checkpoint(lambda x: after(before(x))))
    plain = halves([torch.sin] * 4, lambda after, before, _: lambda x: after(before(x)))
    close(DERIVATIVES[name](nested)(number(4.0)), DERIVATIVES[name](plain)(number(4.0)).data)


def test_checkpoint_of_a_batch_along_another_dim():
    fn = session.checkpoint(lambda x: torch.sin(torch.sin(x)))
    expected = torch.sin(ROWS.data).cos() * ROWS.data.cos()
    close(vmap(d(fn), 1, 0)(ROWS), expected.T)
    close(vmap(d(fn), 1, 1)(ROWS), expected)


def test_checkpoint_takes_and_gives_what_is_no_tensor():
    x = number(2.0)

    @session.checkpoint
    def fn(flag, x=None, *, power):
        if flag and x > 0:
            return torch.sin(x), power, None, "sin"
        return x**power, power, None, "power"

    out = fn(True, x, power=3)
    assert out[1:] == (3, None, "sin")
    close(d(lambda x: fn(True, x, power=3)[0])(x), math.cos(2.0))
    close(d(lambda x: fn(False, x=x, power=3)[0])(x), 12.0)
    close(d(lambda p: fn(False, x, power=p)[0])(number(3.0)), 8 * math.log(2.0))


def test_checkpoint_of_nothing_but_free_variables():
    def fn(x):
        y = 2 * torch.sin(x)
        return session.checkpoint(lambda: torch.cos(x) * torch.sin(y))()

    x = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.cos(x) * torch.sin(2 * torch.sin(x)), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope, x)
    close(d(fn)(number(2.0)), slope.detach())
    close(d(d(fn))(number(2.0)), curve)
    close(push(fn, number(2.0), ONE), slope.detach())


def test_checkpoint_on_a_method():
    class Model:
        def __init__(self, w):
            self.w = w

        @session.checkpoint
        def square(self, x):
            return (self.w * x) ** 2

    close(d(lambda w: Model(w).square(X).sum())(number(3.0)), 6 * (X.data**2).sum())
