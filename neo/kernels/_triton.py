"""Softmax, its gradient, and matrix products in Triton: torch.Tensors in and out, like the functions of torch whose
place they take (dense.py, which imports this when asked to).

They take float32, float64, float16 and bfloat16; of the last two they compute in float32. What does not fit goes to
torch, errors included. Tillet, Kung, Cox 2019, Triton: an intermediate language and compiler for tiled neural network
computations, MAPL.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import torch
import triton
import triton.language as tl

from neo.kernels.direct import all_rows, with_dims_of

__all__ = ["INTERPRETED", "matmul", "product", "softmax", "softmax_gradient"]

LONGEST_ROW = 16384  # entries; a row is held in registers, 32 a thread
SUMMED_IN = {
    torch.float16: tl.float32,
    torch.bfloat16: tl.float32,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
# Rows and columns of a tile of the product, and the step along what is summed over.
TILE = {tl.float32: (64, 64, 32), tl.float64: (32, 32, 16)}

_transform = torch._C._functorch.peek_interpreter_stack  # the innermost open torch.func transform, or None


# --- softmax over rows -------------------------------------------------------------------------------------------


@triton.jit
def _softmax_row(x, y, columns, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """y = eˣ / Σ eˣ for one row a program, of x − max x in place of x.

    On a GPU Triton's eˣ is 2^(x log₂ e), of which x log₂ e is rounded: an entry that is d below the maximum, and so e⁻ᵈ
    of the largest, is off by d/2²⁴ of itself in float32.
    """
    at = tl.arange(0, BLOCK)
    inside = at < columns
    row = tl.program_id(0).to(tl.int64) * columns + at
    values = tl.load(x + row, mask=inside, other=-float("inf")).to(WIDE)
    powers = tl.exp(values - tl.max(values, 0))
    tl.store(y + row, powers / tl.sum(powers, 0), mask=inside)


@triton.jit
def _softmax_gradient_row(g, y, z, columns, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """z = y (g − Σ g y) for one row a program."""
    at = tl.arange(0, BLOCK)
    inside = at < columns
    row = tl.program_id(0).to(tl.int64) * columns + at
    gs = tl.load(g + row, mask=inside, other=0.0).to(WIDE)
    ys = tl.load(y + row, mask=inside, other=0.0).to(WIDE)
    tl.store(z + row, ys * (gs - tl.sum(gs * ys, 0)), mask=inside)


def softmax(x, dim, half_to_float):
    """torch._softmax: eˣ / Σ eˣ over dim, contiguous."""
    if half_to_float or not (_fits(x) and _is_row(x, dim)):
        return torch._softmax(x, dim, half_to_float)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    _run_rows(_softmax_row, x.contiguous(), y)
    return y


def softmax_gradient(g, y, dim, input_dtype):
    """torch._softmax_backward_data: y (g − Σ g y) over dim, contiguous."""
    if not (_fits(g, y) and _is_row(g, dim) and g.shape == y.shape and input_dtype is g.dtype):
        return torch._softmax_backward_data(g, y, dim, input_dtype)
    z = torch.empty_like(g, memory_format=torch.contiguous_format)
    _run_rows(_softmax_gradient_row, g.contiguous(), y.contiguous(), z)
    return z


def _is_row(x, dim):
    return x.ndim > 0 and dim in (-1, x.ndim - 1) and x.shape[-1] <= LONGEST_ROW


def _run_rows(kernel, *tensors):
    columns = tensors[0].shape[-1]
    block = triton.next_power_of_2(columns)
    _run(
        kernel,
        tensors[0].numel() // columns,
        *tensors,
        columns,
        BLOCK=block,
        WIDE=SUMMED_IN[tensors[0].dtype],
        num_warps=min(max(block // 256, 1), 16),
    )


# --- matrix products ---------------------------------------------------------------------------------------------


@triton.jit
def _product_tile(
    a, b, c, m, n, k,
    a_batch, a_row, a_column, b_batch, b_row, b_column,  # strides
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """c = a b for stacks of matrices, c contiguous: one M x N tile of one matrix a program, in steps of K along k."""
    down, across = tl.cdiv(m, M), tl.cdiv(n, N)
    program = tl.program_id(0).to(tl.int64)  # places are counted in 64 bits: a large tensor has more than 2³¹
    batch, tile = program // (down * across), program % (down * across)
    rows = (tile // across) * M + tl.arange(0, M)[:, None]
    columns = (tile % across) * N + tl.arange(0, N)[None, :]
    steps = tl.arange(0, K).to(tl.int64)
    total = tl.zeros((M, N), WIDE)
    for start in range(0, k, K):
        i, j = start + steps[None, :], start + steps[:, None]
        in_a = batch * a_batch + rows * a_row + i * a_column
        in_b = batch * b_batch + j * b_row + columns * b_column
        left = tl.load(a + in_a, mask=(rows < m) & (i < k), other=0.0)
        right = tl.load(b + in_b, mask=(j < k) & (columns < n), other=0.0)
        if WIDEN:
            left, right = left.to(WIDE), right.to(WIDE)
        total = tl.dot(left, right, total, input_precision="ieee", out_dtype=WIDE)  # no TF32
    tl.store(c + (batch * m + rows) * n + columns, total, mask=(rows < m) & (columns < n))


def product(a, b, transpose_a, transpose_b):
    """As direct.product: (m, k), (k, n) → (m, n), each matrix transposed first where its flag says so, of all rows."""
    left, right = all_rows(a), all_rows(b)
    left, right = left.t() if transpose_a else left, right.t() if transpose_b else right
    if left.ndim == 2 == right.ndim and _fits(left, right) and left.shape[1] == right.shape[0]:
        c = _multiply(left.unsqueeze(0), right.unsqueeze(0)).squeeze(0)
    else:
        c = torch.mm(left, right)
    return c if transpose_a else with_dims_of(c, a)


def matmul(a, b):
    """torch.matmul for matrices and stacks of them: (.., m, k), (.., k, n) → (.., m, n), leading dims broadcast."""
    if not (a.ndim >= 2 <= b.ndim and _fits(a, b) and a.shape[-1] == b.shape[-2]):
        return torch.matmul(a, b)
    try:
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except RuntimeError:
        return torch.matmul(a, b)  # which names the sizes
    left, right = (t.expand(*batch, *t.shape[-2:]).reshape(-1, *t.shape[-2:]) for t in (a, b))
    return _multiply(left, right).reshape(*batch, a.shape[-2], b.shape[-1])


def product_sum(a, b, c, d, bias, transpose_a, transpose_b):
    """a b + c d + bias, as of product; bias None or (n,)."""
    first = product(a, b, transpose_a, transpose_b)
    return (first if bias is None else first + bias) + product(c, d, transpose_a, transpose_b)


def matmul_sum(a, b, c, d):
    """a b + c d, as of matmul."""
    return matmul(a, b) + matmul(c, d)


def _multiply(a, b):
    """(batch, m, k), (batch, k, n) → (batch, m, n); any strides, so that a transpose is no copy."""
    batch, m, k = a.shape
    n = b.shape[2]
    c = torch.empty((batch, m, n), dtype=a.dtype, device=a.device)
    wide = SUMMED_IN[a.dtype]
    M, N, K = TILE[wide]
    _run(
        _product_tile,
        batch * triton.cdiv(m, M) * triton.cdiv(n, N),
        a, b, c, m, n, k, *a.stride(), *b.stride(),
        M=M, N=N, K=K, WIDE=wide,
        WIDEN=INTERPRETED and a.dtype is torch.bfloat16,  # the interpreter would multiply its bits as integers
        num_warps=4,
    )  # fmt: skip
    return c


# --- both --------------------------------------------------------------------------------------------------------

INTERPRETED = not isinstance(_product_tile, triton.JITFunction)  # TRITON_INTERPRET was set
_DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter is one for all threads.
_turn: Any = threading.Lock() if INTERPRETED else contextlib.nullcontext()


def _fits(*tensors):
    """Whether the kernels can read these: one dtype of those above, one device, not empty, with memory of their own
    (under torch.func's transforms a tensor stands for a batch) that holds the numbers as they are, not negated."""
    first = tensors[0]
    return (
        first.device.type == _DEVICE
        and first.dtype in SUMMED_IN
        and _transform() is None
        and all(
            t.dtype is first.dtype and t.device == first.device and t.numel() > 0 and not t.is_neg()
            for t in tensors
        )
    )


def _run(kernel, programs, *arguments, **constants):
    with _turn, torch.cuda.device_of(arguments[0]):  # Triton launches on the current device
        kernel[(programs,)](*arguments, **constants)
