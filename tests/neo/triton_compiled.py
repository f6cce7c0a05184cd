"""Triton's kernels, compiled for GPUs that need not be there: what test_triton.py runs, in a process of its own.

That they compile, and into which instructions, is all that can be known of them without a GPU.
"""

from __future__ import annotations

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from neo.kernels import _triton, dense, direct, triton_kernels

POINTERS = {torch.float32: "*fp32", torch.float64: "*fp64", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
SHARED_MEMORY = 48 * 1024  # bytes of a block, which every GPU has
COMPILED = [
    pytest.param(dtype, capability, id=f"{dtype}-sm_{capability}")
    for dtype in POINTERS
    for capability in (80, 90)
]


def assembly(kernel, tensors, dtype, capability, **constants):
    """PTX of a kernel whose arguments are pointers `tensors`, `constants`, and 32 bit integers."""
    kinds = dict.fromkeys(kernel.arg_names, "i32")
    kinds |= dict.fromkeys(tensors, POINTERS[dtype]) | dict.fromkeys(constants, "constexpr")
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(ASTSource(kernel, kinds, constants), target, {"num_warps": 4})
    assert compiled.metadata.shared <= SHARED_MEMORY
    return compiled.asm["ptx"]


@pytest.mark.parametrize(("dtype", "capability"), COMPILED)
def test_product_compiles_and_uses_no_tf32(dtype, capability):
    wide = _triton.SUMMED_IN[dtype]
    M, N, K = _triton.TILE[wide]
    ptx = assembly(_triton._product_tile, "abc", dtype, capability, M=M, N=N, K=K, WIDE=wide, WIDEN=False)
    assert "tf32" not in ptx
    assert ("mma" in ptx) == (dtype is not torch.float32)  # tensor cores have no float32


@pytest.mark.parametrize(
    ("dtype", "block"), [(torch.float32, 1), *((dtype, 1024) for dtype in POINTERS)], ids=str
)
def test_softmax_compiles(dtype, block):
    constants = {"BLOCK": block, "WIDE": _triton.SUMMED_IN[dtype]}
    for kernel, tensors in ((_triton._softmax_row, "xy"), (_triton._softmax_gradient_row, "gyz")):
        assert f".entry {kernel.__name__}" in assembly(kernel, tensors, dtype, 80, **constants)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_switch_says_that_it_needs_one():
    with (
        pytest.raises(RuntimeError, match="triton_kernels: expected a GPU, and torch sees none"),
        triton_kernels(),
    ):
        pass
    assert dense.product is direct.product
