"""Tangent rules (Policy.jvp): every Policy of the library has one, which agrees with backward to second order.

certificate.py holds them to torch's operator database; here are fused Policies, held to their compositions, inputs of
which some have a tangent and others none, float32, and the tests' own ability to fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import neo
from neo.autograd import Policy, session
from neo.functions import arithmetic, first_block, fused, linalg, losses, reduction, shaping
from neo.functions import batch_normalization as bn
from tests.neo.functions.fused_samples import composed_samples
from tests.neo.functions.orders import scalar, tensors
from tests.neo.functions.samples import SAMPLES, Case
from tests.neo.functions.test_compositions import subclasses

WITHOUT_A_TANGENT_RULE = {
    shaping.Linear: "a base class",
    reduction.Reduction: "a base class",
}


def test_every_policy_of_the_library_has_a_tangent_rule() -> None:
    missing = {
        policy
        for policy in subclasses(Policy)
        if policy.__module__.startswith(("neo.functions", "neo.optim")) and policy.jvp is None
    }
    assert missing == set(WITHOUT_A_TANGENT_RULE)


REFUSED_IN_VMAP = {fused.PixelMeans, fused.SpreadMeans, first_block.Correlate, first_block.Spread}  # by name

# --- fused Policies against their compositions ------------------------------------------------------------------------


def draw_like(values: Any, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v.dtype) for v in values]


def differentiated(args: tuple) -> list[int]:
    return [i for i, arg in enumerate(args) if isinstance(arg, neo.LiteTensor) and arg.is_floating_point()]


def forward_orders(fn: Callable[..., Any], args: tuple) -> list[torch.Tensor]:
    """Tangents of fn and of its gradient, with all of its tensors moved and with each; and its tangent's gradient."""
    places = differentiated(args)
    xs = tuple(args[i] for i in places)
    dots = [neo.LiteTensor(dot) for dot in draw_like(xs, 1)]

    def call(*given: Any) -> Any:
        whole = list(args)
        for place, x in zip(places, given, strict=True):
            whole[place] = x
        return tensors(fn(*whole))

    def gradient(*given: Any) -> Any:
        return session.grad(lambda *a: scalar(call(*a)), argnums=tuple(range(len(xs))))(*given)

    def along(f: Callable[..., Any], which: list[int], given: Any = xs) -> Any:
        def moved(*some: Any) -> Any:
            whole = list(given)
            for i, x in zip(which, some, strict=True):
                whole[i] = x
            return f(*whole)

        return session.jvp(moved, tuple(given[i] for i in which), tuple(dots[i] for i in which))[1]

    everything = list(range(len(xs)))
    found = [along(call, everything), along(gradient, everything)]
    if len(xs) > 1:
        for i in everything:
            found += [along(call, [i]), along(gradient, [i])]
    found.append(session.grad(lambda *a: scalar(along(call, everything, a)), argnums=tuple(everything))(*xs))
    return [value.data for part in found for value in tensors(part)]


def disagreement(policy: type[Policy], args: tuple) -> str | None:
    got = forward_orders(neo.functions.function(policy), args)
    composition: Any = policy.composition
    expected = forward_orders(composition, args)
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        if a.shape != b.shape or (a - b).norm() > 1e-9 + 1e-8 * b.norm():
            return f"{policy.__name__}: result {i} is {a.flatten()[:3]}, expected {b.flatten()[:3]}"
    return None


@pytest.mark.parametrize("policy", composed_samples(), ids=lambda policy: policy.__name__)
def test_fused_policy_has_the_tangents_of_its_composition(policy: type[Policy]) -> None:
    for args in composed_samples()[policy]():
        assert disagreement(policy, args) is None


@pytest.mark.parametrize(
    "policy",
    [policy for policy in composed_samples() if not policy.once_differentiable],
    ids=lambda policy: policy.__name__,
)
def test_many_tangents_at_once_are_each_ones_own(policy: type[Policy]) -> None:
    """vmap over tangents alone, as in jacobian(mode="forward"): kernels cannot run there; their compositions do."""
    args = next(composed_samples()[policy]())
    places = differentiated(args)
    xs = tuple(args[i] for i in places)
    dots = [
        neo.LiteTensor(torch.stack(pair)) for pair in zip(draw_like(xs, 1), draw_like(xs, 2), strict=True)
    ]

    def push(*given: Any) -> Any:
        whole = list(args)

        def call(*moved: Any) -> Any:
            for place, x in zip(places, moved, strict=True):
                whole[place] = x
            return tensors(neo.functions.function(policy)(*whole))

        return session.jvp(call, xs, given)[1]

    try:
        together = neo.vmap(push)(*dots)
    except RuntimeError as error:
        assert "inside vmap, where they cannot run" in str(error)  # noqa: PT017
        assert policy in REFUSED_IN_VMAP
        return
    for i in range(2):
        for got, expected in zip(together, push(*[neo.LiteTensor(dot.data[i]) for dot in dots]), strict=True):
            torch.testing.assert_close(got.data[i], expected.data, rtol=1e-9, atol=1e-11)


# --- some inputs with a tangent, others without -----------------------------------------------------------------------

SEVERAL = [case for case in SAMPLES if len(case.args) > 1]


def adjointness(case: Case, which: int) -> tuple[float, float, float]:
    """⟨v, J u⟩ with input `which` alone moved, ⟨Jᵀ v, u⟩, and how far they may be apart."""
    args = tuple(neo.LiteTensor(x) for x in case.args)

    def alone(x: Any) -> Any:
        return tensors(case.fn(*[x if i == which else arg for i, arg in enumerate(args)]))

    (u,) = draw_like([args[which]], 3)
    out, pullback = session.vjp(alone, args[which])
    bars = draw_like(out, 4)
    (pulled,) = pullback(bars)
    _, moved = session.jvp(alone, (args[which],), (neo.LiteTensor(u),))
    ahead = [t.data.double() * bar.double() for t, bar in zip(moved, bars, strict=True)]
    back = pulled.data.double() * u.double()
    size = sum(float(part.abs().sum()) for part in (*ahead, back))
    exact = all(value.dtype is torch.float64 for value in (*args, *out))
    away = (1e-9 if exact else 1e-6) * size + 1e-12
    return sum(float(part.sum()) for part in ahead), float(back.sum()), away


@pytest.mark.parametrize("case", SEVERAL, ids=[f"{i}-{case.id}" for i, case in enumerate(SEVERAL)])
def test_each_input_alone_has_the_tangent_that_its_gradient_says(case: Case) -> None:
    for which, x in enumerate(case.args):
        if x.is_floating_point():
            ahead, back, away = adjointness(case, which)
            assert ahead == pytest.approx(back, abs=away, nan_ok=True)


@pytest.mark.parametrize("case", SAMPLES, ids=[f"{i}-{case.id}" for i, case in enumerate(SAMPLES)])
def test_float32_tangents_are_float32_and_as_exact(case: Case) -> None:
    args = tuple(neo.LiteTensor(x.float()) for x in case.args)
    dots = tuple(neo.LiteTensor(dot) for dot in draw_like([x.double() for x in case.args], 5))
    fn = lambda *xs: tensors(case.fn(*xs))  # noqa: E731
    try:
        out, moved = session.jvp(fn, args, tuple(dot.to(torch.float32) for dot in dots))
    except RuntimeError as error:  # what the sample closes over is float64, and torch does not mix them
        if "dtype" in str(error) or "type" in str(error):
            pytest.skip("takes float64 alone")
        raise
    _, exact = session.jvp(fn, tuple(x.to(torch.float64) for x in args), dots)
    for y, t, right in zip(out, moved, exact, strict=True):
        assert t.dtype is y.dtype
        finite = torch.isfinite(right.data)
        scale = float(torch.where(finite, right.data, 0.0).abs().max()) if right.numel() else 0.0
        away = torch.where(finite, t.data.double() - right.data, 0.0).abs()
        assert not t.numel() or float(away.max()) <= 1e-2 * scale + 1e-3


# --- the tests can fail -----------------------------------------------------------------------------------------------


def planted(policy: type[Policy], wrong: Callable[[Any, tuple], Any]) -> Callable[..., Any]:
    right: Any = policy.jvp
    return lambda self, *dots: wrong(right(self, *dots), dots)


@pytest.mark.parametrize(
    ("policy", "at"),
    [
        (bn.BatchNorm, bn.BatchNorm),
        (bn.BatchNorm, bn.BatchNormGradient),
        (losses.CrossEntropy, losses.CrossEntropyGradient),
    ],
)
def test_a_planted_tangent_of_a_fused_policy_is_found(policy: Any, at: Any, monkeypatch: Any) -> None:
    def larger(result: Any, _: Any) -> Any:
        first, *rest = result if isinstance(result, tuple) else (result,)
        first = None if first is None else first * (1 + 1e-6)
        return (first, *rest) if isinstance(result, tuple) else first

    monkeypatch.setattr(at, "jvp", planted(at, larger))
    assert any(disagreement(policy, args) for args in composed_samples()[policy]())


@pytest.mark.parametrize("policy", [arithmetic.Mul, linalg.Product])
def test_a_lost_term_of_the_product_rule_is_found(policy: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        policy, "jvp", planted(policy, lambda result, dots: None if dots[0] is None else result)
    )
    cases = [case for case in SEVERAL if case.id.startswith(("mul", "matmul"))]
    found = [adjointness(case, 1) for case in cases]
    assert any(abs(ahead - back) > away for ahead, back, away in found)
