"""The derivatives of GELU and the second order of layer norm, on Neo's kernels, against closed forms in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import neo
from neo import kernels
from neo.kernels import rows

pytestmark = pytest.mark.usefixtures("own_kernels")


def density(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def slope(x: torch.Tensor) -> torch.Tensor:
    """GELU's derivative, Φ(x) + x φ(x)."""
    return torch.special.erfc(-x / math.sqrt(2)) / 2 + x * density(x)


# --- GELU ------------------------------------------------------------------------------------------------------------

# Whole vectors, broken ones, none; and dense where the functions bend.
POINTS = torch.cat(
    [torch.linspace(-15, 15, 30001), torch.linspace(-0.1, 0.1, 2001), torch.logspace(-40, 0, 200)]
)
UNITS = 4 * torch.finfo(torch.float32).eps  # two roundings of the largest term each


def test_derivatives_of_gelu_are_near_the_exact_ones() -> None:
    x, g = POINTS.float(), torch.randn(len(POINTS), generator=torch.Generator().manual_seed(0))
    a, exact = g.flip(0), x.double()
    found = rows.gelu_gradient(g, x)
    assert ((found.double() - g * slope(exact)).abs() <= UNITS * g.abs()).all()
    found = rows.gelu_bend(a, g, x)
    assert (
        (found.double() - a.double() * g * density(exact) * (2 - exact**2)).abs() <= UNITS * (a * g).abs()
    ).all()


def test_small_values_of_the_left_tail_keep_their_digits() -> None:
    """Where 1 + erf cancels: at −6 torch's float32 kernel is off by a sixth."""
    x = torch.linspace(-12, -1, 1101)
    found = rows.gelu_gradient(torch.ones_like(x), x).double()
    assert ((found - slope(x.double())).abs() <= 1e-5 * slope(x.double()).abs()).all()


@pytest.mark.parametrize("count", [0, 1, 3, 15, 16, 17, 33, 100, 40_000])
def test_any_number_of_entries(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    a, g, x = (
        torch.randn(count + 1, generator=generator)[1:] for _ in range(3)
    )  # not at a vector's boundary
    torch.testing.assert_close(
        rows.gelu_gradient(g, x), (g * slope(x.double())).float(), rtol=1e-5, atol=1e-6
    )
    right = (a.double() * g * density(x.double()) * (2 - x.double() ** 2)).float()
    torch.testing.assert_close(rows.gelu_bend(a, g, x), right, rtol=1e-5, atol=1e-6)


def test_what_is_no_number_spreads_as_in_torch() -> None:
    x, g = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0, 0.0, -0.0]), torch.ones(6)
    right = torch.ops.aten.gelu_backward(g, x)
    assert torch.equal(rows.gelu_gradient(g, x).isnan(), right.isnan())
    assert torch.equal(rows.gelu_bend(g, g, x).isnan(), rows._gelu_bend(g, g, x).isnan())
    assert rows.gelu_gradient(g * torch.nan, torch.ones(6)).isnan().all()


def test_switched_off_the_gradient_is_torchs_bits() -> None:
    g, x = torch.randn(2, 1000)
    with kernels.switched_off():
        assert torch.equal(rows.gelu_gradient(g, x), torch.ops.aten.gelu_backward(g, x))


# --- layer norm ------------------------------------------------------------------------------------------------------

optional = st.booleans()


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(
        [((3,), (5,)), ((2, 7), (16,)), ((70,), (37,)), ((1,), (64,)), ((200,), (2, 3)), ((65, 2), (1,))]
    ),
    st.tuples(optional, optional, optional, optional),
    st.tuples(optional, optional, optional),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
)
def test_second_order_of_layer_norm_equals_torchs(shapes, given_, needs, dtype, turned) -> None:
    outer, shape = shapes
    generator = torch.Generator().manual_seed(sum(outer))

    def draw(*size: int) -> torch.Tensor:
        if turned and len(size) > 1:  # not contiguous
            return torch.randn(*reversed(size), generator=generator, dtype=torch.float64).permute(
                *reversed(range(len(size)))
            )
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    x, g = draw(*outer, *shape) * 3 + 1, draw(*outer, *shape)
    X, W, B, weight = (
        draw(*size) if one else None
        for one, size in zip(given_, ((*outer, *shape), shape, shape, shape), strict=True)
    )
    _, mean, scale = torch.native_layer_norm(x, shape, weight, None, 1e-5)
    arguments = [X, W, B, g, x, weight, mean, scale]
    right = rows._layer_norm_second_order(*arguments, shape, needs)
    own = rows.layer_norm_second_order(*(None if t is None else t.to(dtype) for t in arguments), shape, needs)
    bound = 1e-12 if dtype == torch.float64 else 3e-5
    for found, exact in zip(own, right, strict=True):
        assert (found is None) == (exact is None)
        if found is not None:
            assert found.shape == exact.shape
            assert found.dtype == dtype
            largest = max(1.0, float(exact.abs().max()))
            assert float((found.double() - exact).abs().max()) <= bound * largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bits_do_not_depend_on_threads(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    X, g, x = (torch.randn(700, 96, generator=generator, dtype=dtype) for _ in range(3))
    W, B, weight = (torch.randn(96, generator=generator, dtype=dtype) for _ in range(3))
    _, mean, scale = torch.native_layer_norm(x, (96,), weight, None, 1e-5)
    flat = [torch.randn(70_000, generator=generator) for _ in range(3)]
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            norm = rows.layer_norm_second_order(X, W, B, g, x, weight, mean, scale, (96,), (True, True, True))
            found.append([*norm, rows.gelu_gradient(*flat[:2]), rows.gelu_bend(*flat)])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_layer_norm_is_right_to_third_order() -> None:
    x, weight, bias = (
        neo.LiteTensor(torch.randn(*size, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
        for size in ((4, 7), (7,), (7,))
    )

    def energy(x, weight, bias):
        return torch.sin(torch.nn.functional.layer_norm(x, (7,), weight, bias)).sum()

    neo.gradcheck(energy, (x, weight, bias), order=3)
