"""Neo on Triton's kernels against torch's: what test_triton.py runs, in a process of its own.

For TRITON_INTERPRET must be set before Triton is imported, and then holds for the whole process: with it these run in
the interpreter on the CPU, without it on a GPU.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

import neo
from benchmarks import triton as measurement
from neo.kernels import dense, direct, triton_kernels
from tests.neo.functions.orders import assert_orders_agree, neo_orders, torch_orders

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
# Of the largest entry. For the half types one unit in the last place, as the interpreter cuts digits off.
ERROR = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
DTYPES = pytest.mark.parametrize("dtype", ERROR, ids=str)
INF = float("inf")


@pytest.fixture(autouse=True)
def switched_on():
    with triton_kernels():
        yield


@pytest.fixture
def launched(monkeypatch):
    """The kernels that ran, in order: a right number does not say which kernel it came from."""
    from neo.kernels import _triton

    names: list[str] = []
    run = _triton._run

    def noting(kernel, *arguments, **constants):
        names.append(kernel.__name__)
        run(kernel, *arguments, **constants)

    monkeypatch.setattr(_triton, "_run", noting)
    return names


def draw(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def assert_near(found, exact, scale=None):
    """Equal up to rounding, relative to `scale`, by default the largest entry of what is exact in float64."""
    assert found.shape == exact.shape
    scale = exact.abs().max() if scale is None else scale
    assert (found.double() - exact).abs().max() <= ERROR[found.dtype] * scale


# --- softmax -----------------------------------------------------------------------------------------------------

ROWS = {
    "1x1": lambda dtype: draw(1, 1, dtype=dtype),
    "1xn": lambda dtype: draw(1, 130, dtype=dtype),
    "nx1": lambda dtype: draw(5, 1, dtype=dtype),
    "vector": lambda dtype: draw(33, dtype=dtype),
    "3d": lambda dtype: draw(3, 2, 5, dtype=dtype),
    "power of two": lambda dtype: draw(4, 64, dtype=dtype),
    "transposed": lambda dtype: draw(7, 5, dtype=dtype).t(),
    "every other": lambda dtype: draw(4, 14, dtype=dtype)[:, ::2],
    "one row for all": lambda dtype: draw(1, 6, dtype=dtype).expand(3, 6),
    "far apart": lambda dtype: 100 * draw(3, 9, dtype=dtype),
}


@DTYPES
@pytest.mark.parametrize("rows", ROWS)
def test_softmax_and_its_gradient_agree_with_torch(rows, dtype, launched):
    x = ROWS[rows](dtype)
    y = dense.softmax(x, x.ndim - 1, False)
    g = draw(*x.shape, dtype=dtype, seed=1).flip(-1)
    g = g if x.ndim < 2 else g.transpose(0, 1).contiguous().transpose(0, 1)  # of other strides than y
    z = dense.softmax_gradient(g, y, -1, dtype)
    assert y.dtype == z.dtype == dtype
    assert_near(y, torch.softmax(x.double(), -1))
    exact = torch._softmax_backward_data(g.double(), y.double(), -1, torch.float64)
    assert_near(z, exact, scale=g.double().abs().max())
    assert launched == ["_softmax_row", "_softmax_gradient_row"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy warns of ∞ − ∞
def test_softmax_of_infinities_is_torchs(launched):
    x = torch.tensor([[0, -INF, 1], [-INF, -INF, 2], [-INF, -INF, -INF], [INF, 0, 1], [0, INF - INF, 1]])
    found, expected = (torch.softmax(x, -1) for x in (neo.LiteTensor(x.to(DEVICE)), x))
    torch.testing.assert_close(found.data.cpu(), expected, equal_nan=True)
    assert launched == ["_softmax_row"]


@pytest.mark.parametrize("spelled", [torch.softmax, F.softmax, lambda x, dim: x.softmax(dim)])
def test_softmax_is_exact_to_third_order(spelled, launched):
    x = draw(2, 5)
    x[0, 1] = -INF  # a masked entry, whose gradients are all zero
    assert_orders_agree(lambda x: spelled(x, -1), (x,), orders=3, tolerance=1e-10)
    assert {*launched} == {"_softmax_row", "_softmax_gradient_row"}


MISFITS = {
    "no rows": lambda: (draw(0, 5), 1),
    "empty rows": lambda: (draw(3, 0), 1),
    "longer than registers": lambda: (draw(1, 20000), 1),
    "negated view": lambda: (torch._neg_view(draw(2, 3)), 1),
    "not the last dim": lambda: (draw(3, 4), 0),
    "scalar": lambda: (draw(), 0),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_softmax_that_does_not_fit_is_torchs(misfit, launched):
    x, dim = MISFITS[misfit]()
    assert torch.equal(torch.softmax(neo.LiteTensor(x), dim).data, torch.softmax(x, dim))
    z = dense.softmax_gradient(x, x, dim, x.dtype)
    assert torch.equal(z, torch._softmax_backward_data(x, x, dim, x.dtype))
    assert launched == []


# --- matrix products ---------------------------------------------------------------------------------------------

FACTORS = {
    "1x1x1": lambda dtype: (draw(1, 1, dtype=dtype), draw(1, 1, dtype=dtype, seed=1)),
    "1xkx1": lambda dtype: (draw(1, 70, dtype=dtype), draw(70, 1, dtype=dtype, seed=1)),
    "mx1xn": lambda dtype: (draw(3, 1, dtype=dtype), draw(1, 5, dtype=dtype, seed=1)),
    "broken tiles": lambda dtype: (draw(65, 33, dtype=dtype), draw(33, 70, dtype=dtype, seed=1)),
    "whole tiles": lambda dtype: (draw(64, 64, dtype=dtype), draw(64, 128, dtype=dtype, seed=1)),
    "transposed": lambda dtype: (draw(9, 7, dtype=dtype).t(), draw(5, 9, dtype=dtype, seed=1).t()),
    "sliced": lambda dtype: (draw(8, 14, dtype=dtype)[::2, ::2], draw(7, 9, dtype=dtype, seed=1)[:, 2:]),
    "stacks": lambda dtype: (draw(3, 4, 6, dtype=dtype), draw(3, 6, 5, dtype=dtype, seed=1)),
    "one matrix for a stack": lambda dtype: (draw(4, 6, dtype=dtype), draw(3, 6, 5, dtype=dtype, seed=1)),
    "broadcast stacks": lambda dtype: (draw(2, 1, 4, 6, dtype=dtype), draw(3, 6, 5, dtype=dtype, seed=1)),
}


@DTYPES
@pytest.mark.parametrize("factors", FACTORS)
def test_product_agrees_with_torch(factors, dtype, launched):
    a, b = FACTORS[factors](dtype)
    c = dense.product(a, b, False, False) if a.ndim == b.ndim == 2 else dense.matmul(a, b)
    assert c.dtype == dtype
    assert_near(c, a.double() @ b.double())
    assert launched == ["_product_tile"]


def test_float32_is_not_multiplied_as_tf32(monkeypatch):
    """1 + 2⁻¹² is no TF32 number. The interpreter, which knows no TF32, is asked for what it was told."""
    from triton.runtime.interpreter import InterpreterBuilder

    told = []
    create_dot = InterpreterBuilder.create_dot

    def noting(self, a, b, total, precision, *rest):
        told.append(precision.name)
        return create_dot(self, a, b, total, precision, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", noting)
    a = torch.full((16, 16), 1 + 2.0**-12, device=DEVICE)
    assert torch.equal(dense.product(a, torch.eye(16, device=DEVICE), False, False), a)
    assert told == ["IEEE"] * (DEVICE == "cpu")


@pytest.mark.parametrize(
    "product",
    [torch.matmul, torch.mm, lambda a, b: a @ b, lambda a, b: F.linear(a, b.t())],
    ids=["matmul", "mm", "operator", "linear"],
)
def test_matrix_product_is_exact_to_third_order(product, launched):
    assert_orders_agree(product, (draw(3, 4), draw(4, 2, seed=1)), orders=3, tolerance=1e-10)
    assert {*launched} == {"_product_tile"}


STACKS = [((2, 3, 4), (2, 4, 2)), ((3, 4), (2, 4, 2)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,))]


@pytest.mark.parametrize("shapes", STACKS)
def test_product_of_stacks_is_exact_to_third_order(shapes, launched):
    a, b = (draw(*shape, seed=seed) for seed, shape in enumerate(shapes))
    assert_orders_agree(torch.matmul, (a, b), orders=3, tolerance=1e-10)
    assert {*launched} == {"_product_tile"}


def test_product_that_does_not_fit_is_torchs(launched):
    for a, b in [
        (draw(0, 3), draw(3, 2)),
        (draw(2, 0), draw(0, 3)),
        (torch._neg_view(draw(2, 3)), draw(3, 2)),
        (draw(2, 3).long(), draw(3, 2).long()),
    ]:
        assert torch.equal((neo.LiteTensor(a) @ neo.LiteTensor(b)).data, a.cpu().mm(b.cpu()).to(DEVICE))
    for a, b, words in [
        (draw(2, 3), draw(2, 3), "cannot be multiplied"),
        (draw(2, 3), draw(3, 2).float(), "dtype"),
        (draw(2, 2, 3), draw(3, 3, 2), "must match"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            torch.matmul(neo.LiteTensor(a), neo.LiteTensor(b))
    assert launched == []


# --- both --------------------------------------------------------------------------------------------------------


def attention(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2), -1) @ v


def test_attention_in_float32_is_right_to_second_order(launched):
    args = [draw(2, 5, 3, dtype=torch.float32, seed=seed) for seed in range(3)]
    exact = [x.double() for x in args]
    for order in (1, 2):
        for found, expected in zip(
            neo_orders(attention, args, order), torch_orders(attention, exact, order), strict=True
        ):
            assert found.dtype == torch.float32
            assert (found.data.double() - expected).norm() <= 1e-5 * expected.norm()
    assert {*launched} == {"_product_tile", "_softmax_row", "_softmax_gradient_row"}


def test_gradcheck_of_attention_to_second_order():
    args = tuple(neo.LiteTensor(draw(2, 3, seed=seed)) for seed in range(3))
    assert neo.gradcheck(attention, args, order=2, fast=True)


def test_vmap_is_torchs(launched):
    x = draw(4, 2, 3)
    found = torch.func.vmap(lambda x: dense.product(dense.softmax(x, 1, False), x, False, True))(x)
    torch.testing.assert_close(found, torch.softmax(x, -1) @ x.transpose(1, 2))
    assert launched == []


def test_tasks_on_threads_compute_what_they_compute_alone(launched):
    args = [[draw(2, 5, 3, seed=3 * task + i) for i in range(3)] for task in range(4)]
    gradients = lambda task: [g.data for g in neo_orders(attention, args[task], 1)]  # noqa: E731
    alone = [gradients(task) for task in range(4)]
    del launched[:]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(gradients, range(4)))
    assert launched
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_switch_holds_until_the_last_has_closed_it():
    def on():
        return dense.product is not direct.product

    other = triton_kernels()  # as another thread would, not nested
    this = triton_kernels()
    other.__enter__()
    this.__enter__()
    other.__exit__(None, None, None)
    assert on()
    with pytest.raises(KeyError), triton_kernels():
        raise KeyError
    assert on()
    this.__exit__(None, None, None)
    assert on()  # the fixture's


def test_measurement_runs_to_its_end_and_times_nothing_in_the_interpreter(capsys, monkeypatch):
    monkeypatch.setattr(measurement, "ROUNDS", 1)
    measurement.main(["quick=true"])
    table = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    head, *rows = [[cell.strip() for cell in row] for row in table]
    assert {row[0] for row in rows} == {"softmax", "matmul"}
    for row in (dict(zip(head, row, strict=True)) for row in rows):
        assert all(0 < float(row[whose]) < 2e-2 for whose in ("torch's error", "Triton's error")), row
        assert all(bool(row[cell]) == (DEVICE == "cuda") for cell in (*measurement.TIMES, "prefer")), row
