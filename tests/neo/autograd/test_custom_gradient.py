"""custom_gradient: a rule for a function of pytrees, which is the rule at every order; its mistakes are named."""

import numpy as np
import pytest
import torch

import neo
from neo.autograd import session
from neo.errors import GradientError, SavedTensorError, SessionError


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return neo.LiteTensor(torch.randn(shape, dtype=torch.float64, generator=generator))


@neo.custom_gradient
def damped(tree, x):
    """exp(x) sin(x) + a, of which the rule uses the output and what was computed on the way."""
    grown, wave = torch.exp(x), torch.sin(x)
    out = {"value": grown * wave + tree["a"], "grown": grown}

    def rule(bar):
        slope = out["value"] - tree["a"] + grown * torch.cos(x)
        return {"a": bar["value"], "unused": None}, bar["value"] * slope + bar["grown"] * out["grown"]

    return out, rule


def total(a, x):
    out = damped({"a": a, "unused": neo.ones(2)}, x)
    return out["value"] * 2 + torch.sin(out["grown"])


def test_rule_is_right_at_every_order_though_it_uses_intermediates_and_outputs():
    assert session.gradcheck(total, (draw(3, seed=1), draw(3)), order=3)


def test_rule_is_the_rule_at_every_order():
    @neo.custom_gradient
    def rounded(x):
        y = torch.round(x)  # whose own derivative is 0
        return y, lambda bar: bar * y * 2

    x = draw(4) * 3
    slope = session.grad(lambda x: session.grad(lambda x: rounded(x).sum(), argnums=0)(x).sum(), argnums=0)(x)
    torch.testing.assert_close(slope.data, 4 * torch.round(x.data))


def test_forward_mode_takes_the_rule_transposed():
    x, v = draw(3), draw(3, seed=2)
    _, tangent = session.jvp(lambda x: total(x, x), (x,), (v,))
    gradient = session.grad(lambda x: total(x, x).sum(), argnums=0)(x)
    torch.testing.assert_close(tangent.sum().data, (gradient * v).sum().data)
    over = session.jvp(session.grad(lambda x: total(x, x).sum(), argnums=0), (x,), (v,))[1]
    product = session.hvp(lambda x: total(x, x).sum(), x, v)
    torch.testing.assert_close(over.data, product.data)


def test_modes_checkpoint_and_vmap_take_it():
    x = draw(5, 3)

    def outer(x, mode="reverse"):
        inner = lambda y: total(y, y * x).sum()  # noqa: E731
        return (session.grad(inner, argnums=0, mode=mode)(x) ** 2).sum()

    expected = session.grad(outer, argnums=0)(x)
    for found in (
        session.grad(lambda x: outer(x, "mixed"), argnums=0)(x),
        session.grad(lambda x: session.checkpoint(outer)(x), argnums=0)(x),
        session.grad(lambda x: neo.vmap(outer)(x).sum(), argnums=0)(x),
    ):
        torch.testing.assert_close(found.data, expected.data)


def test_values_come_from_anywhere():
    @neo.custom_gradient
    def by_numpy(x):
        return neo.LiteTensor(np.sin(x.data.numpy())), lambda bar: bar * torch.cos(x)

    assert session.gradcheck(by_numpy, (draw(4),), order=2)


def test_argument_that_is_passed_on_is_a_tensor_of_its_own():
    @neo.custom_gradient
    def doubled(x):
        return (x, x), lambda bars: bars[0] * 2 + bars[1] * 3

    x = draw(2)
    gradient = session.grad(lambda x: doubled(x)[0] * 5 + doubled(x)[1] + x, argnums=0)(x)
    assert gradient.tolist() == [14.0, 14.0]


def test_without_a_session_it_is_the_function():
    assert total(draw(3), draw(3)).shape == (3,)


def with_rule(rule):
    return neo.custom_gradient(lambda tree, x: (tree["a"] * x, rule))


ARGS = ({"a": draw(3)}, draw(3))
WRONG = {
    "one for two arguments": (lambda bar: bar, "for each of the 2 positional arguments"),
    "another structure": (lambda bar: ({"b": bar}, bar), "argument 0 must mirror it"),
    "another shape": (lambda bar: ({"a": bar}, bar.sum()), r"argument 1: its gradient is .* shape \(\)"),
    "another dtype": (lambda bar: ({"a": bar.to(torch.float32)}, None), r"argument 0\['a'\].*float32"),
    "no tensor": (lambda bar: ({"a": 1.0}, bar), "must be a tensor or None, got float"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_gradients_are_named(case):
    rule, words = WRONG[case]
    fn = with_rule(rule)
    with pytest.raises(GradientError, match=words):
        session.grad(lambda tree, x: fn(tree, x).sum(), argnums=(0, 1))(*ARGS)


def test_function_without_a_rule_is_named():
    fn = neo.custom_gradient(lambda x: x * 2)
    with pytest.raises(TypeError, match=r"returns \(output, rule\)"):
        fn(draw(2))
    with pytest.raises(TypeError, match="expected the output to be LiteTensors, got float"):
        session.grad(neo.custom_gradient(lambda x: (1.0, lambda bar: bar)), argnums=0)(draw(2))


def test_tensor_past_the_arguments_is_refused():
    def outer(w):
        fn = neo.custom_gradient(lambda x: (x * w, lambda bar: bar * w))
        return fn(w).sum()

    with pytest.raises(SessionError, match="past the positional arguments"):
        session.grad(outer, argnums=0)(draw(2))
    by_keyword = neo.custom_gradient(lambda x, w: (x * w, lambda bar: bar * w))
    with pytest.raises(SessionError, match="past the positional arguments"):
        session.grad(lambda x, w: by_keyword(x, w=w), argnums=(0, 1))(draw(2), draw(2))


def test_function_that_changes_is_found_out_at_second_order():
    factor = [1.0]

    @neo.custom_gradient
    def unsteady(x):
        factor[0] += 1
        return x * factor[0], lambda bar: bar * x

    with pytest.raises(SavedTensorError, match="came out different"):
        session.hvp(lambda x: unsteady(x).sum(), draw(2), draw(2))
