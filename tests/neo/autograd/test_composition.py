"""Fused Policies: what an outer session differentiates, and the check that holds a Policy to its composition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import neo
from neo import autograd
from neo.autograd import check_composition
from neo.functions import function


def numbers(*shape: int, seed: int = 0) -> neo.LiteTensor:
    generator = torch.Generator().manual_seed(seed)
    return neo.LiteTensor(torch.randn(shape, generator=generator, dtype=torch.float64))


class ScaledSwish(autograd.Policy):
    """y = w x σ(x) by numpy, which no tape can see into; so is backward."""

    once_differentiable = True

    @staticmethod
    def composition(x, weight):
        return weight * x * torch.sigmoid(x)

    def forward(self, x, weight):
        self.ctx.save(x, weight)
        s = 1 / (1 + np.exp(-x.numpy()))
        return weight * torch.from_numpy(x.numpy() * s)

    def backward(self, y_bar):
        x, weight = self.ctx.release
        s = torch.from_numpy(1 / (1 + np.exp(-x.numpy())))
        slope = s + x * s * (1 - s)
        return y_bar * weight * slope, (y_bar * x * s).sum()


def test_a_rule_by_a_kernel_is_right_at_every_order() -> None:
    x, weight = numbers(5), neo.LiteTensor(0.7, dtype=torch.float64)
    assert check_composition(ScaledSwish, (x, weight))
    assert neo.gradcheck(function(ScaledSwish), (x, weight), order=3)


def test_backward_gets_torch_tensors_at_every_order() -> None:
    met = []

    class Watching(ScaledSwish):
        def backward(self, y_bar):
            met.extend(type(value) for value in (y_bar, *self.ctx.release))
            return super().backward(y_bar)

    fn, weight = function(Watching), neo.LiteTensor(1.5, dtype=torch.float64)
    slope = neo.grad(lambda x: fn(x, weight).sum(), argnums=0)
    neo.grad(lambda x: slope(x).sum(), argnums=0)(numbers(4))
    assert set(met) <= {torch.Tensor}


def test_forward_mode_of_a_rule_by_a_kernel() -> None:
    x, weight, tangent = numbers(5), neo.LiteTensor(0.7, dtype=torch.float64), numbers(5, seed=1)
    _, got = neo.jvp(lambda x: function(ScaledSwish)(x, weight), (x,), (tangent,))
    _, expected = neo.jvp(lambda x: ScaledSwish.composition(x, weight), (x,), (tangent,))
    torch.testing.assert_close(got.data, expected.data)


class Halves(autograd.Policy):
    """(x, n) ↦ (a + b, n a) for a list [a, b] of tensors and whole numbers n."""

    once_differentiable = True
    materialize = False

    @staticmethod
    def composition(pair, n):
        a, b = pair
        return a + b, a * n * b.detach()

    def forward(self, pair, n):
        self.ctx.save(n, *pair)
        return pair[0] + pair[1], pair[0] * n * pair[1]

    def backward(self, sum_bar, product_bar):
        n, _, b = self.ctx.release
        a_bar = sum_bar
        if product_bar is not None:
            a_bar = product_bar * n * b if sum_bar is None else sum_bar + product_bar * n * b
        return a_bar, sum_bar, None


@pytest.mark.parametrize("output", [0, 1])
def test_tensors_in_lists_integers_and_outputs_that_nobody_uses(output: int) -> None:
    a, b, n = numbers(3), numbers(3, seed=1), neo.LiteTensor([1, 2, 3])

    def second(fn):
        first = neo.grad(lambda a, b: (fn([a, b], n)[output] ** 3).sum(), argnums=(0, 1))
        return neo.grad(lambda a, b: sum((g**2).sum() for g in first(a, b)), argnums=(0, 1))(a, b)

    for got, expected in zip(second(function(Halves)), second(Halves.composition), strict=True):
        torch.testing.assert_close(got.data, expected.data)


def test_without_a_composition_a_second_order_is_refused_by_name() -> None:
    class Alone(ScaledSwish):
        composition = None

    x, weight = numbers(3), neo.LiteTensor(1.0, dtype=torch.float64)
    slope = neo.grad(lambda x: function(Alone)(x, weight).sum(), argnums=0)
    assert slope(x).shape == (3,)
    with pytest.raises(
        neo.GradientError, match=r"Alone\.backward is once_differentiable.*name a composition"
    ):
        neo.grad(lambda x: slope(x).sum(), argnums=0)(x)
    assert autograd.TapeContext.current() is None
    with pytest.raises(TypeError, match="Alone names no composition"):
        check_composition(Alone, (x, weight))


def test_a_composition_of_other_outputs_is_refused_by_name() -> None:
    class Two(ScaledSwish):
        @staticmethod
        def composition(x, weight):
            return x, weight

    x, weight = numbers(3), neo.LiteTensor(1.0, dtype=torch.float64)
    slope = neo.grad(lambda x: function(Two)(x, weight).sum(), argnums=0)
    with pytest.raises(
        neo.GradientError, match=r"Two\.composition: expected 1 outputs, as forward has, got 2"
    ):
        neo.grad(lambda x: slope(x).sum(), argnums=0)(x)


def test_a_saved_tensor_changed_in_place_is_found_at_an_outer_level_too() -> None:
    x, weight = numbers(3), neo.LiteTensor(1.0, dtype=torch.float64)

    def changed(x):
        _, pullback = neo.vjp(function(ScaledSwish), x, weight)
        x.data.add_(1)
        return pullback(torch.ones(3, dtype=torch.float64))[0].sum()

    with pytest.raises(neo.SavedTensorError, match=r"ScaledSwish: saved tensor 0.*changed in place"):
        neo.grad(changed, argnums=0)(x)


def test_an_input_that_was_not_saved_must_not_change_either() -> None:
    class Unsaved(ScaledSwish):
        def forward(self, x, weight):
            self.ctx.save(self.ctx.constant(torch.sigmoid(x)), weight)
            return weight * x * torch.sigmoid(x)

        def backward(self, y_bar):
            return None, None

    x, weight = numbers(3), neo.LiteTensor(1.0, dtype=torch.float64)

    def changed(x):
        _, pullback = neo.vjp(function(Unsaved), x, weight)
        x.data.add_(1)
        return pullback(torch.ones(3, dtype=torch.float64))[0].sum()

    with pytest.raises(neo.SavedTensorError, match=r"Unsaved: input 0.*changed in place after forward"):
        neo.grad(changed, argnums=0)(x)


class WrongValue(ScaledSwish):
    def forward(self, x, weight):
        return super().forward(x, weight) + 1e-6


class WrongGradient(ScaledSwish):
    def backward(self, y_bar):
        x_bar, w_bar = super().backward(y_bar)
        return x_bar, w_bar * (1 + 1e-6)


class WrongSecondOrder(ScaledSwish):
    """The right gradient, of which an outer session sees a part alone."""

    once_differentiable = False

    def forward(self, x, weight):
        self.ctx.save(x, weight)
        return weight * x * torch.sigmoid(x)

    def backward(self, y_bar):
        x, weight = self.ctx.release
        s = torch.sigmoid(x)
        return y_bar * weight * (s + x * (s * (1 - s)).detach()), (y_bar * x * s).sum()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (WrongValue, r"WrongValue: order 0: output 0, entry \(\d,\), is off: expected .* by the composition"),
        (WrongGradient, r"WrongGradient: order 1: gradient 1 of argument 1, entry \(\), is off"),
        (WrongSecondOrder, r"WrongSecondOrder: order 2: gradient 0 of argument 0, entry \(\d,\), is off"),
    ],
    ids=["value", "gradient", "second order"],
)
def test_a_planted_error_is_found_and_named(wrong, message) -> None:
    with pytest.raises(neo.GradcheckError, match=message):
        check_composition(wrong, (numbers(4), neo.LiteTensor(0.5, dtype=torch.float64)))


def test_another_shape_or_dtype_than_the_compositions_is_found() -> None:
    class Kept(ScaledSwish):
        def forward(self, x, weight):
            return super().forward(x, weight)[None]

    with pytest.raises(neo.GradcheckError, match=r"order 0: output 0: expected .*\(4,\) by the composition"):
        check_composition(Kept, (numbers(4), neo.LiteTensor(0.5, dtype=torch.float64)))
