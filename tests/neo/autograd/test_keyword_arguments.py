"""A forward with *args, keyword-only arguments and **kwargs: tensors among them are inputs like any other."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import autograd
from neo.autograd import session
from neo.functions import function, implements, registry


def number(value):
    return neo.LiteTensor(torch.as_tensor(value, dtype=torch.float64))


X, W, B = number([[0.5, -1.0, 2.0]]), number([[1.0, 2.0, -3.0], [0.1, 0.2, 0.3]]), number([0.7, -0.7])


class Scaled(autograd.Policy):
    """y = factor · x · scale, scale by keyword alone."""

    def forward(self, x, *, scale, factor=2.0):
        self.ctx.save(x, scale, factor)
        return x * scale * factor

    def backward(self, grad):
        x, scale, factor = self.ctx.release
        return grad * scale * factor, (grad * x * factor).sum_to_size(scale.shape)


class Anything(autograd.Policy):
    """The product of whatever comes, in order of arrival; names of keywords are added up."""

    def forward(self, x, *args, **kwargs):
        tensors = [x, *args, *(value for value in kwargs.values() if isinstance(value, torch.Tensor))]
        self.ctx.save(*tensors)
        y = tensors[0]
        for tensor in tensors[1:]:
            y = y * tensor
        return y * kwargs.get("factor", 1.0)

    def backward(self, grad):
        tensors = self.ctx.release
        found = []
        for i in range(len(tensors)):
            g = grad
            for j, tensor in enumerate(tensors):
                if j != i:
                    g = g * tensor
            found.append(g)
        return tuple(found)


scaled, anything = function(Scaled), function(Anything)


def test_keyword_only_tensor_gets_its_gradient_at_second_order_too():
    g = session.grad(lambda x, s: scaled(x, scale=s).sum(), argnums=(0, 1))(X, number(3.0))
    torch.testing.assert_close(g[0].data, torch.full((1, 3), 6.0, dtype=torch.float64))
    assert g[1].item() == 2 * X.data.sum()
    assert session.gradcheck(lambda x, s: scaled(x, factor=0.5, scale=s), (X, number(3.0)), order=3)


def test_keywords_are_told_apart_by_name_and_not_by_order():
    x, s = number(2.0), number(5.0)
    one = session.grad(lambda x, s: scaled(x, scale=s, factor=3.0), argnums=(0, 1))(x, s)
    other = session.grad(lambda x, s: scaled(x, factor=3.0, scale=s), argnums=(0, 1))(x, s)
    assert [g.item() for g in one] == [g.item() for g in other] == [15.0, 6.0]


def test_var_positional_and_var_keyword_tensors_are_inputs():
    a, b, c, d = (number(value) for value in (2.0, 3.0, 5.0, 7.0))
    g = session.grad(lambda a, b, c, d: anything(a, b, p=c, q=d), argnums=(0, 1, 2, 3))(a, b, c, d)
    assert [part.item() for part in g] == [105.0, 70.0, 42.0, 30.0]
    assert session.gradcheck(lambda a, b, c: anything(a, p=b, q=c), (a, b, c), order=2)
    assert anything(a, factor=4.0).item() == 8.0
    assert anything(a.data, b.data, p=c.data).item() == 30.0
    assert session.grad(lambda a, p: anything(a, p=p), argnums=1)(a, a).item() == 2.0


def test_list_of_tensors_by_keyword_is_an_input():
    class Total(autograd.Policy):
        """y = Σ tensors."""

        def forward(self, *, tensors):
            return tensors[0] + tensors[1]

        def backward(self, grad):
            return grad, grad * 1

    g = session.grad(lambda a, b: function(Total)(tensors=[a, b]), argnums=(0, 1))(number(1.0), number(2.0))
    assert [part.item() for part in g] == [1.0, 1.0]


def test_saved_intermediate_is_replayed_with_its_keywords():
    class Cubed(autograd.Policy):
        """y = (x s)³, from a saved intermediate."""

        def forward(self, x, *, s):
            u = x * s
            self.ctx.save(u, x, s)
            return u**3

        def backward(self, grad):
            u, x, s = self.ctx.release
            return grad * 3 * u**2 * s, grad * 3 * u**2 * x

    assert session.gradcheck(lambda x, s: function(Cubed)(x, s=s), (number(0.7), number(1.3)), order=3)


def test_errors_keep_the_name_of_the_policy():
    class Wrong(Scaled):
        def backward(self, grad):
            return grad

    with pytest.raises(neo.GradientError, match=r"Wrong\.backward: expected 2 gradients"):
        session.grad(lambda x: function(Wrong)(x, scale=x))(X)
    with pytest.raises(TypeError, match=r"Scaled.*missing a required .*'scale'"):
        scaled(X, factor=1.0)
    with pytest.raises(TypeError, match="scale"):
        scaled(X)


@pytest.fixture
def restored():
    """The op library as it was, after a test has registered a Policy."""
    tables = [(table, dict(table)) for table in (registry._handlers, registry._twins)]
    library = copy.copy(vars(neo.functions))
    yield
    for table, before in tables:
        table.clear()
        table.update(before)
    vars(neo.functions).update(library)


@pytest.mark.usefixtures("restored")
def test_policy_that_replaces_an_op_may_take_args_and_kwargs():
    @implements(F.linear)
    class Linear(autograd.Policy):
        """y = x wᵀ + b, however it is called."""

        def forward(self, x, *args, **kwargs):
            w, b = (*args, *kwargs.values())
            self.ctx.save(x, w)
            return torch.addmm(b, x, w.T)

        def backward(self, grad):
            x, w = self.ctx.release
            return grad @ w, grad.T @ x, grad.sum(0)

    for call in (
        lambda x, w, b: F.linear(x, w, b),
        lambda x, w, b: F.linear(x, w, bias=b),
        lambda x, w, b: F.linear(x, weight=w, bias=b),
        lambda x, w, b: F.linear(input=x, weight=w, bias=b),
    ):
        g = session.grad(lambda *args, call=call: call(*args).sum(), argnums=(0, 1, 2))(X, W, B)
        torch.testing.assert_close(g[0].data, W.data.sum(0, keepdim=True))
        torch.testing.assert_close(g[1].data, X.data.expand(2, 3))
        torch.testing.assert_close(g[2].data, torch.ones(2, dtype=torch.float64))


@pytest.mark.usefixtures("restored")
def test_policy_that_replaces_an_op_meets_torchs_own_keywords():
    @implements(F.gelu)
    class Gelu(autograd.Policy):
        """y = 2 x, noting its keywords."""

        def forward(self, x, *args, **kwargs):
            assert kwargs in ({}, {"approximate": "tanh"})
            return x * 2

        def backward(self, grad):
            return grad * 2

    for call in (F.gelu, lambda x: F.gelu(x, approximate="tanh"), lambda x: F.gelu(input=x)):
        assert session.grad(call, argnums=0)(X).tolist() == [[2.0, 2.0, 2.0]]
