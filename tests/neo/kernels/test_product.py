"""Neo's products of matrices against exact ones, through neo.kernels.direct, which shares them between threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import neo
from neo import kernels
from neo.kernels import direct

pytestmark = pytest.mark.usefixtures("own_kernels")

# Vectors, panels of 64 columns and of 6 rows, whole and broken; more terms than a panel holds at once.
sizes = st.sampled_from([2, 5, 6, 7, 16, 33, 64, 70, 130])
terms = st.sampled_from([1, 3, 16, 40, 511, 513, 1300])
layouts = st.sampled_from(["rows", "columns", "every other row", "every other entry", "one row expanded"])
dtypes = st.sampled_from([torch.float32, torch.float64])


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def matrix(rows: int, columns: int, dtype: torch.dtype, layout: str = "rows", seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if layout == "columns":
        return torch.randn(columns, rows, generator=generator, dtype=dtype).t()
    if layout == "every other row":
        return torch.randn(2 * rows, columns, generator=generator, dtype=dtype)[::2]
    if layout == "every other entry":
        return torch.randn(rows, 2 * columns, generator=generator, dtype=dtype)[:, ::2]
    if layout == "one row expanded":
        return torch.randn(1, columns, generator=generator, dtype=dtype).expand(rows, columns)
    return torch.randn(rows, columns, generator=generator, dtype=dtype)


def assert_near(
    found: torch.Tensor, a: torch.Tensor, b: torch.Tensor, bias: float | torch.Tensor = 0.0
) -> None:
    """found = a b + bias up to the rounding of sums of at most 128 terms; torch's own may be further off."""
    assert found.shape == (a.shape[0], b.shape[1])
    assert found.is_contiguous()
    assert not found.requires_grad
    exact = a.numpy().astype(np.longdouble) @ b.numpy().astype(np.longdouble) + np.asarray(bias)
    allowed = 32 * torch.finfo(found.dtype).eps * (a.abs() @ b.abs() + abs(bias))
    assert (abs(found.numpy() - exact) <= allowed.numpy()).all()


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # which kernels serve stays the same between examples
@given(sizes, sizes, terms, layouts, layouts, st.booleans(), st.booleans(), dtypes)
def test_product_of_any_layout(m, n, k, left, right, transpose_a, transpose_b, dtype):
    a = matrix(*((k, m) if transpose_a else (m, k)), dtype, left, 1)
    b = matrix(*((n, k) if transpose_b else (k, n)), dtype, right, 2)
    found = direct.product(a, b, transpose_a, transpose_b)
    assert_near(found, a.t() if transpose_a else a, b.t() if transpose_b else b)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes, sizes, terms, layouts, layouts, dtypes)
def test_affine_of_any_layout(rows, outputs, inputs, layout, weights, dtype):
    x, weight = matrix(rows, inputs, dtype, layout, 1), matrix(outputs, inputs, dtype, weights, 2)
    bias = torch.randn(outputs, generator=torch.Generator().manual_seed(3), dtype=dtype)
    assert_near(direct.affine(x, weight, bias), x, weight.t(), bias)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes, sizes, terms, terms, layouts, layouts, st.booleans(), st.booleans(), st.booleans(), dtypes)
def test_sum_of_two_products_of_any_layout(
    m, n, k, more, left, right, transpose_a, transpose_b, biased, dtype
):
    pairs = []
    for count, seed in ((k, 1), (more, 3)):
        pairs.append(matrix(*((count, m) if transpose_a else (m, count)), dtype, left, seed))
        pairs.append(matrix(*((n, count) if transpose_b else (count, n)), dtype, right, seed + 1))
    bias = torch.arange(n, dtype=dtype) if biased else None
    found = direct.product_sum(*pairs, bias, transpose_a, transpose_b)
    a, c = (x.t() if transpose_a else x for x in pairs[::2])
    b, d = (x.t() if transpose_b else x for x in pairs[1::2])
    assert_near(found, torch.cat((a, c), 1), torch.cat((b, d)), 0.0 if bias is None else bias)


STACKS = {  # (leading, rows, columns) → a stack as attention has them, and others
    "whole": lambda leading, rows, columns: torch.randn(*leading, rows, columns),
    "transposed": lambda leading, rows, columns: torch.randn(*leading, columns, rows).transpose(-1, -2),
    "heads": lambda leading, rows, columns: torch.randn(*leading[:-1], rows, leading[-1], columns).transpose(
        -2, -3
    ),
    "turned heads": lambda leading, rows, columns: (
        torch.randn(*leading[:-1], columns, leading[-1], rows).movedim(-2, -3).transpose(-1, -2)
    ),
    "expanded": lambda leading, rows, columns: torch.randn(rows, columns).expand(*leading, rows, columns),
    "every other entry": lambda leading, rows, columns: torch.randn(*leading, rows, 2 * columns)[..., ::2],
}


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([(1,), (7,), (3, 4), (2, 3, 5)]),
    st.tuples(*[st.sampled_from([1, 2, 7, 17, 33])] * 3),
    st.sampled_from(sorted(STACKS)),
    st.sampled_from(sorted(STACKS)),
    dtypes,
)
def test_product_of_stacks_of_any_layout(leading, sizes, left, right, dtype):
    m, k, n = sizes
    a, b = STACKS[left](leading, m, k).to(dtype), STACKS[right](leading, k, n).to(dtype)
    found = direct.batch_product(a, b)
    assert found.shape == (*leading, m, n)
    pairs = zip(a.reshape(-1, m, k), b.reshape(-1, k, n), found.reshape(-1, m, n), strict=True)
    for one, other, product in pairs:
        assert_near(product, one, other)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([(1,), (7,), (2, 3, 5)]),
    st.tuples(*[st.sampled_from([2, 7, 17, 33])] * 4),
    st.sampled_from(sorted(STACKS)),
    st.sampled_from(sorted(STACKS)),
    dtypes,
)
def test_sum_of_two_products_of_stacks_of_any_layout(leading, sizes, left, right, dtype):
    m, n, *terms = sizes
    a, c = (STACKS[left](leading, m, k).to(dtype) for k in terms)
    b, d = (STACKS[right](leading, k, n).to(dtype) for k in terms)
    found = direct.batch_product_sum(a, b, c, d)
    assert found.shape == (*leading, m, n)
    lefts, rights = torch.cat((a, c), -1), torch.cat((b, d), -2)
    parts = (x.reshape(-1, *x.shape[-2:]) for x in (found, lefts, rights))
    for one in zip(*parts, strict=True):
        assert_near(*one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bits_of_stacks_do_not_depend_on_threads(threads, dtype):
    a, b = torch.randn(6, 3, 65, 64, dtype=dtype), torch.randn(6, 3, 65, 64, dtype=dtype).transpose(-1, -2)
    found = direct.batch_product(a, b)
    torch.set_num_threads(1)
    assert torch.equal(found, direct.batch_product(a, b))
    assert torch.equal(direct.batch_product_sum(a, b, 0 * a, b), found)
    assert torch.equal(found[2, 1], direct.product(a[2, 1], b[2, 1], False, False))


def test_stacks_that_the_kernels_do_not_take_are_torchs():
    a = torch.randn(4, 3, 5)
    for b in (torch.randn(5, 2), torch.randn(1, 5, 2), torch.randn(2, 4, 5, 2), torch.randn(5)):
        assert torch.equal(direct.batch_product(a, b), a @ b)
    assert torch.equal(direct.batch_product(a.bfloat16(), a.bfloat16().mT), a.bfloat16() @ a.bfloat16().mT)
    assert torch.equal(direct.batch_product(a[:, :, :0], a[:, :0, :]), torch.zeros(4, 3, 5))
    assert direct.batch_product(a[:0], a[:0].mT).shape == (0, 3, 3)
    with pytest.raises(RuntimeError, match=r"must match"):
        direct.batch_product(a, torch.randn(3, 5, 2))
    with pytest.raises(RuntimeError, match=r"batch2 tensor|must match"):
        direct.batch_product(a, torch.randn(4, 6, 2))
    with pytest.raises(RuntimeError, match="expected scalar type Float but found Double"):
        direct.batch_product(a, torch.randn(4, 5, 2, dtype=torch.float64))


def test_attention_is_right_to_third_order():
    q, k, v = (neo.LiteTensor(torch.randn(2, 4, 2, 3, dtype=torch.float64).transpose(1, 2)) for _ in range(3))

    def energy(q, k, v):
        return (torch.softmax(q @ k.transpose(-1, -2), -1) @ v).sin().sum()

    neo.gradcheck(energy, (q, k, v), order=3)


# Shared by rows, by columns, and by nobody, for being small; both ways round.
@pytest.mark.parametrize(("m", "k", "n"), [(300, 90, 70), (7, 600, 1100), (1100, 600, 7), (9, 5, 11)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bits_do_not_depend_on_threads(threads, m, k, n, dtype):
    a, b, bias = matrix(m, k, dtype), matrix(n, k, dtype), torch.arange(n, dtype=dtype)

    def products():
        both = direct.product_sum(a, b, -a, b, bias, False, True)
        return (
            direct.affine(a, b, bias), direct.product(a, b, False, True), direct.product(b, a, False, True), both
        )  # fmt: skip

    found = products()
    torch.set_num_threads(1)
    again = products()
    for parts, whole in zip(found, again, strict=True):
        assert torch.equal(parts, whole)
    assert_near(found[0], a, b.t(), bias)
    assert torch.equal(found[1], found[2].t())  # the same sums, whichever side is spread over vectors


def test_what_is_no_number_spreads_as_in_torch():
    a, b = torch.ones(5, 70), torch.ones(70, 40)
    a[1, 3], a[2, 5], b[5, 7] = torch.nan, torch.inf, 0.0
    found, expected = direct.product(a, b, False, False), a @ b
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_what_the_kernels_do_not_take_is_torchs():
    whole = torch.arange(6).view(2, 3)
    assert torch.equal(direct.product(whole, whole, False, True), whole @ whole.t())
    half = torch.randn(3, 4, dtype=torch.bfloat16)
    assert torch.equal(direct.product(half, half, True, False), half.t() @ half)
    row, empty = torch.randn(1, 5), torch.randn(0, 5)
    assert torch.equal(direct.product(row, row, True, False), row.t() @ row)
    assert direct.product(empty, row, False, True).shape == (0, 1)
    assert torch.equal(direct.product(empty, empty, True, False), torch.zeros(5, 5))
    with pytest.raises(RuntimeError, match="same dtype"):
        direct.product(torch.ones(3, 3), torch.ones(3, 3, dtype=torch.float64), False, False)
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied \(3x2 and 3x2\)"):
        direct.product(torch.ones(3, 2), torch.ones(3, 2), False, False)
    with pytest.raises(RuntimeError, match="expanded size"):
        direct.affine(torch.ones(3, 2), torch.ones(4, 2), torch.ones(5))


def test_linear_layer_is_right_to_second_order():
    args = [
        neo.LiteTensor(matrix(*shape, torch.float64, seed=sum(shape))) for shape in [(9, 5), (7, 5), (1, 7)]
    ]

    def energy(x, weight, bias):
        return (torch.sin(torch.nn.functional.linear(x, weight, bias.squeeze(0))) ** 2).sum()

    neo.gradcheck(energy, tuple(args), order=2)


def test_switched_off_products_are_torchs_bits():
    a, b = torch.randn(50, 60), torch.randn(60, 70)
    with kernels.switched_off():
        assert not kernels.own_products()
        assert torch.equal(direct.product(a, b, False, False), a @ b)
        assert torch.equal(direct.batch_product(a[None], b[None]), a[None] @ b[None])
    assert kernels.own_products() == (kernels.library.AMD and kernels.available())
