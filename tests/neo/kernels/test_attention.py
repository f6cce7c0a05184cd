"""Attention's core on Neo's kernels, and its first and second order, against torch's functions in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel

import neo
from neo import kernels
from neo.functions import attention_core
from neo.kernels import attention as kernel

pytestmark = pytest.mark.usefixtures("own_kernels")


def small(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) / 2


# (sequences, heads, places, width) → a stack. Of numbers around a half: where weights saturate, the second order of
# larger ones is a small difference of numbers in the hundreds, and torch's float32 loses as many digits.
LAYOUTS = {
    "by head": lambda n, h, p, w: small(n, h, p, w),
    "by place": lambda n, h, p, w: small(n, p, h, w).transpose(1, 2),
    "places first": lambda n, h, p, w: small(p, n, h, w).permute(1, 2, 0, 3),
    "by width": lambda n, h, p, w: small(n, h, w, p).transpose(2, 3),
    "one for all": lambda n, h, p, w: small(1, 1, p, w).expand(n, h, p, w),
}
layouts = st.sampled_from(sorted(LAYOUTS))
counts = st.sampled_from([1, 2, 3, 15, 16, 17, 40])


def all_orders(g: Any, tensors: Any, of: Any, heads: int, places_first: bool, causal: bool) -> list[Any]:
    """What the three functions give of these."""
    every = (True,) * len(tensors)
    out, weights = kernel.attention(tensors, heads, places_first, causal, 0.6)
    first = kernel.attention_gradient(g, tensors, weights, heads, places_first, 0.6, every)
    g_out, second = kernel.attention_second_order(
        of, g, tensors, weights, heads, places_first, 0.6, (True, *every)
    )
    return [out, weights, *first, g_out, *second]


def exact_orders(g: Any, tensors: Any, of: Any, heads: int, places_first: bool, causal: bool) -> list[Any]:
    """The same of torch's functions in float64."""
    g, tensors, of = g.double(), tuple(x.double() for x in tensors), tuple(x.double() for x in of)
    every = (True,) * len(tensors)
    out, weights = kernel._attention(tensors, heads, places_first, causal, 0.6)
    first = kernel._gradient(g, tensors, weights, heads, places_first, 0.6, every)
    g_out, second = kernel._second_order(of, g, tensors, weights, heads, places_first, 0.6, (True, *every))
    return [out, weights, *first, g_out, *second]


def assert_near(found: list[Any], exact: list[Any], dtype: torch.dtype) -> None:
    bound = 1e-12 if dtype == torch.float64 else 5e-6
    for one, other in zip(found, exact, strict=True):
        assert (one.shape, one.dtype) == (other.shape, dtype)
        largest = max(1.0, float(other.abs().max()))
        assert float((one.double() - other).abs().max()) <= bound * largest


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([(1, 1), (2, 3)]),
    st.tuples(counts, counts, counts, counts),
    st.tuples(layouts, layouts, layouts, layouts),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 9),
)
def test_stacks_of_any_layout(outer, sizes, layout, causal, dtype, seed) -> None:
    torch.manual_seed(seed)
    places, others, width, value_width = sizes
    shapes = [
        (*outer, *size) for size in ((places, width), (others, width), (others, value_width))
    ]  # of q, k and v
    tensors, of = (
        tuple(LAYOUTS[one](*shape).to(dtype) for one, shape in zip(layout[:3], shapes, strict=True))
        for _ in range(2)
    )
    arguments = LAYOUTS[layout[3]](*outer, places, value_width).to(dtype), tensors, of, 0, False, causal
    assert_near(all_orders(*arguments), exact_orders(*arguments), dtype)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 3, 4]),
    counts,
    counts,
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 9),
)
def test_rows_of_all_heads(n, heads, places, width, places_first, causal, dtype, seed) -> None:
    lead = (places, n) if places_first else (n, places)
    torch.manual_seed(seed)
    rows, of = (small(*lead, 3 * heads * width).to(dtype) for _ in range(2))
    g = small(*lead, heads * width).to(dtype)
    arguments = g, (rows,), (of,), heads, places_first, causal
    assert_near(all_orders(*arguments), exact_orders(*arguments), dtype)


def test_values_are_no_further_off_than_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    for spread in (1.0, 4.0, 12.0):  # of a few like weights to one that has it all
        q, k, v = (torch.randn(4, 4, 64, 32, generator=generator) * spread for _ in range(3))
        right = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
        out, _ = kernel.attention((q, k, v), 0, False, False, 32**-0.5)
        with sdpa_kernel(SDPBackend.MATH):
            torchs = F.scaled_dot_product_attention(q, k, v)
        off, torch_off = (float((x - right).pow(2).mean().sqrt()) for x in (out, torchs))
        assert off <= 1.2 * torch_off


def test_a_place_attends_to_none_after_it_whatever_is_there() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 4)
    k[:, :, 3], v[:, :, 3] = torch.nan, torch.nan
    out, weights = kernel.attention((q, k, v), 0, False, True, 0.5)
    assert not weights[:, :, :3].isnan().any()
    right, _ = kernel._attention((q, k, v), 0, False, True, 0.5)
    assert torch.equal(out.isnan(), right.isnan())


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
def test_what_is_no_number_spreads_as_in_torch(odd: float, which: int) -> None:
    tensors = tuple(torch.randn(3, 1, 2, 18, 4).abs())
    tensors[which][0, 1, 5, 2] = odd
    found, _ = kernel.attention(tensors, 0, False, False, 0.5)
    right, _ = kernel._attention(tensors, 0, False, False, 0.5)
    assert torch.equal(found.isnan(), right.isnan())
    assert torch.equal(found.isinf(), right.isinf())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bits_do_not_depend_on_threads(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors, of = (tuple(torch.randn(3, 5, 3, 65, 32, generator=generator, dtype=dtype)) for _ in range(2))
    g = torch.randn(5, 3, 65, 32, generator=generator, dtype=dtype)
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(all_orders(g, tensors, of, 0, False, False))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions choose these kernels, whatever the processor's maker."""
    monkeypatch.setattr(kernels, "own_products", lambda: True)


@pytest.mark.usefixtures("chosen")
def test_a_module_is_right_to_third_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the weights that its gradient reads are a constant there."""
    model, params = neo.nn.from_torch(torch.nn.MultiheadAttention(6, 2, batch_first=True).double())
    x, calls = torch.randn(2, 3, 6, dtype=torch.float64), []
    monkeypatch.setattr(
        attention_core, "attention", lambda *given: calls.append(given) or kernel.attention(*given)
    )

    def energy(params: Any) -> Any:
        return model(params, x, x, x, need_weights=False)[0].sin().sum()

    neo.gradcheck(energy, (params,), order=3)
    assert calls


@pytest.mark.usefixtures("chosen")
def test_what_the_kernels_take() -> None:
    assert attention_core.takes(torch.randn(1, 1, 2, 2))
    assert not attention_core.takes(torch.randn(1, 1, 0, 2))
    assert not attention_core.takes(torch.randn(1, 1, 2, 2, dtype=torch.bfloat16))
    assert not attention_core.takes(torch.randn(1), torch.randn(1, dtype=torch.float64))
    with kernels.switched_off():
        assert not attention_core.takes(torch.randn(1, 1, 2, 2))
