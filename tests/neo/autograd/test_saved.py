"""Rule 5: a saved intermediate is right at second order, by replay, or refused with the Policy's name."""

import numpy as np
import pytest
import torch

import neo
from neo import autograd
from neo.autograd import session
from neo.errors import SavedTensorError
from neo.functions import function
from tests.neo.autograd.policies import Cube, cube


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


def d(fn):
    return session.grad(fn, argnums=0)


def test_saved_intermediate_is_right_at_every_order_by_replay():
    x = number(2.0)
    fn = cube
    for expected in (12.0, 12.0, 6.0, 0.0):
        fn = d(fn)
        assert fn(x).item() == expected


def test_saved_intermediate_is_not_replayed_without_an_outer_session():
    calls = []

    class Counted(Cube):
        def forward(self, x):
            calls.append(type(x))
            return super().forward(x)

    d(function(Counted))(number(2.0))
    assert calls == [torch.Tensor]


def intermediate(make, rule=lambda saved, grad: grad * saved):
    """A Policy y = x·s(x) that saves s, computed by `make`."""

    class Refused(autograd.Policy):
        def forward(self, x):
            s = make(self, x)
            self.ctx.save(s)
            return x * getattr(s, "data", s)

        def backward(self, grad):
            (s,) = self.ctx.release
            return rule(s, grad)

    return function(Refused)


def no_policy(self, x):
    return torch.special.airy_ai(x)


def numpy_detour(self, x):
    return torch.from_numpy(np.exp(x.numpy()))


def random_draw(self, x):
    return torch.rand_like(x) if isinstance(x, torch.Tensor) else neo.rand(tuple(x.shape), dtype=x.dtype)


def mutated(self, x):
    out = x.clone()
    out.mul_(2)
    return out


def stateful(self, x):
    type(self).calls = getattr(type(self), "calls", 0) + 1
    return x * type(self).calls


@pytest.mark.parametrize(
    "make", [no_policy, numpy_detour, random_draw, mutated, stateful], ids=lambda f: f.__name__
)
def test_intermediate_that_cannot_be_replayed_is_refused_by_name(make):
    op, x = intermediate(make), number([0.5, 1.5])
    assert d(op)(x).shape == (2,)  # the first order needs no replay
    with pytest.raises(
        SavedTensorError, match=r"Refused: .*(replayed|outside Neo's functions).*ctx.constant"
    ):
        d(lambda x: d(op)(x).sum())(x)


def test_forward_that_saves_another_number_of_values_when_replayed_is_refused():
    class Fickle(autograd.Policy):
        def forward(self, x):
            self.ctx.save(*(x * 2 for _ in range(1 if isinstance(x, torch.Tensor) else 2)))
            return x * x

        def backward(self, grad):
            return grad * self.ctx.release[0]

    with pytest.raises(SavedTensorError, match="Fickle: forward saved 1 values, and 2"):
        d(d(function(Fickle)))(number(1.0))


class Dropout(autograd.Policy):
    """y = m x with a random mask m, a constant by intention;  x̄ = m ȳ."""

    def forward(self, x):
        mask = self.ctx.constant((torch.rand_like(x) > 0.5).to(x.dtype) * 2)
        self.ctx.save(mask)
        return x * mask

    def backward(self, grad):
        (mask,) = self.ctx.release
        return grad * mask


def test_constant_mask_serves_every_order_with_the_same_draw():
    x, dropout = number(np.linspace(1, 2, 64)), function(Dropout)
    torch.manual_seed(0)

    def inner(x):
        y = dropout(x)
        return (y * y * y).sum()

    g = d(inner)(x)
    kept = g.data != 0
    assert 10 < int(kept.sum()) < 54
    torch.manual_seed(0)
    second = d(lambda x: d(inner)(x).sum())(x)
    torch.testing.assert_close(second.data, torch.where(kept, 48 * x.data, 0.0))


def test_constant_inside_a_replayed_forward_meets_the_same_draw():
    class NoisyCube(autograd.Policy):
        """y = n x³ with a random n, saving the intermediate n x²."""

        def forward(self, x):
            noise = self.ctx.constant(
                torch.rand(()).to(torch.float64) if isinstance(x, torch.Tensor) else None
            )
            scaled = x * x * noise
            self.ctx.save(scaled)
            return scaled * x

        def backward(self, grad):
            (scaled,) = self.ctx.release
            return grad * scaled * 3

    op, x = function(NoisyCube), number(2.0)
    torch.manual_seed(3)
    first = d(op)(x).item()
    torch.manual_seed(3)
    assert d(d(op))(x).item() == pytest.approx(first)  # 12 n at x = 2, for both
    torch.manual_seed(4)
    assert abs(d(op)(x).item() - first) > 1e-3


def test_input_marked_constant_is_a_constant_to_the_outer_level():
    class Frozen(autograd.Policy):
        """y = x²;  x̄ = 2 ȳ c with c = x, a constant by intention."""

        def forward(self, x):
            self.ctx.save(self.ctx.constant(x))
            return x * x

        def backward(self, grad):
            return grad * self.ctx.release[0] * 2

    op, x = function(Frozen), number(3.0)
    assert d(op)(x).item() == 6.0
    assert d(lambda x: d(op)(x) * x)(x).item() == 6.0


def test_constants_alone_are_what_release_gives():
    class Masked(autograd.Policy):
        def forward(self, x):
            mask = self.ctx.constant(x > 0)
            return torch.where(mask, x, 0.0)

        def backward(self, grad):
            (mask,) = self.ctx.release
            return torch.where(mask, grad, 0.0)

    masked, x = function(Masked), number([-1.0, 2.0])
    assert d(masked)(x).tolist() == [0.0, 1.0]
    assert d(lambda x: d(lambda x: masked(x) * masked(x))(x).sum())(x).tolist() == [0.0, 2.0]


def stash(**how):
    class Stashed(autograd.Policy):
        """y = x², with x kept on self."""

        def forward(self, x):
            self.kept = how["wrap"](x)
            return x * x

        def backward(self, grad):
            return grad * how["unwrap"](self.kept) * 2

    return function(Stashed)


STASHES = [
    pytest.param(stash(wrap=lambda x: x, unwrap=lambda x: x), id="tensor"),
    pytest.param(stash(wrap=lambda x: [x], unwrap=lambda x: x[0]), id="list"),
    pytest.param(stash(wrap=lambda x: {"x": (x,)}, unwrap=lambda x: x["x"][0]), id="dict"),
]


@pytest.mark.parametrize("op", STASHES)
def test_tensor_stashed_on_self_is_refused_at_second_order(op):
    x = number(3.0)
    assert d(op)(x).item() == 6.0
    with pytest.raises(SavedTensorError, match=r"Stashed: forward keeps the tensor self.kept"):
        d(d(op))(x)  # the cotangent is a constant: nothing but the stash depends on x
    with pytest.raises(SavedTensorError, match=r"Stashed: forward keeps the tensor self.kept"):
        d(d(lambda x: op(x) * x))(x)


def test_tensor_stashed_on_self_is_welcome_when_marked_constant():
    class Marked(autograd.Policy):
        def forward(self, x):
            self.sign = self.ctx.constant(torch.sign(x))
            return torch.abs(x)

        def backward(self, grad):
            return grad * self.sign

    op, x = function(Marked), number(-3.0)
    assert d(lambda x: op(x) * op(x))(x).item() == -6.0
    assert d(d(lambda x: op(x) * op(x)))(x).item() == 2.0


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x, 1), lambda x: {"x": x}, neo.LiteTensor])
def test_save_of_what_a_higher_order_could_not_see_is_refused(wrap):
    class Hidden(autograd.Policy):
        def forward(self, x):
            self.ctx.save(wrap(x))
            return x * x

        def backward(self, grad):
            return grad

    with pytest.raises(SavedTensorError, match=r"Hidden: ctx.save got a"):
        d(function(Hidden))(number(1.0))


def test_release_outside_backward_is_refused():
    class Early(autograd.Policy):
        def forward(self, x):
            self.ctx.save(x)
            return x * self.ctx.release[0]

    with pytest.raises(SavedTensorError, match=r"Early: ctx\.release belongs in backward"):
        d(function(Early))(number(1.0))


def test_saved_outputs_of_one_tensor_returned_twice_stay_two_outputs():
    class Twice(autograd.Policy):
        """(a, b) = (x², x²) as one torch tensor; the rule weighs the two apart: x̄ = 2 x ā + 20 x b̄."""

        def forward(self, x):
            self.ctx.save(x)
            y = x * x
            return y, y

        def backward(self, a_bar, b_bar):
            (x,) = self.ctx.release
            return a_bar * x * 2 + b_bar * x * 20

    def product(x):
        a, b = function(Twice)(x)
        return torch.mul(b, a * 0 + b)  # b²: all of it through b

    x = number(1.0)
    assert d(product)(x).item() == 2 * 20.0

    def shared(x):
        a, b = function(Twice)(x)
        return d(lambda t: torch.mul(a, t) * torch.mul(b, t))(number(1.0))  # 2 a b, saved as a, t, b, t

    assert d(shared)(x).item() == 2 * (2.0 + 20.0)
    assert d(lambda x: torch.div(*function(Twice)(x)))(x).item() == 2.0 - 20.0


def test_no_policy_of_neos_own_keeps_anything_on_self():
    """The tape looks for stashed tensors in Policies of the user's alone; so ours must not assign to self."""
    import ast
    import inspect
    import pkgutil
    import textwrap
    from importlib import import_module

    import neo.functions

    names = [f"neo.functions.{one.name}" for one in pkgutil.iter_modules(neo.functions.__path__)]
    policies = {
        kind
        for name in names
        for kind in vars(import_module(name)).values()
        if isinstance(kind, type) and issubclass(kind, autograd.Policy) and kind.__module__ == name
    }
    assert len(policies) > 100
    found = [
        f"{kind.__qualname__}: self.{node.attr}"
        for kind in policies
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(kind))))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    ]
    assert found == []
