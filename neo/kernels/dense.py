"""The kernels that the softmax and matmul Policies run on: torch's, or Triton's while `triton_kernels` is open.

The Policies (functions/softmaxes.py, functions/linalg.py) call them by these names. Their rules are made of the same
Policies, so that one rule serves both at every order; and closed, the switch costs nothing: a name is looked up here as
it would be in torch.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from neo.kernels import direct

__all__ = ["matmul", "matmul_sum", "product", "product_sum", "softmax", "softmax_gradient", "triton_kernels"]

Kernels = tuple[Callable[..., Any], ...]

product = direct.product  # (a, b, transpose_a, transpose_b): (m, k), (k, n) → (m, n)
matmul = direct.batch_product  # (a, b): (.., m, k), (.., k, n) → (.., m, n), leading dims broadcast
softmax = torch._softmax  # (x, dim, False): eˣ / Σ eˣ over dim
softmax_gradient = torch._softmax_backward_data  # (g, y, dim, dtype): y (g − Σ g y) over dim

# what a tangent of the first two is: (a, b, c, d, bias or None, transpose_a, transpose_b), and (a, b, c, d)
product_sum, matmul_sum = direct.product_sum, direct.batch_product_sum

_TORCH: Kernels = (product, matmul, softmax, softmax_gradient, product_sum, matmul_sum)
_lock = threading.Lock()
_open = 0  # how many `with triton_kernels()` are open, in all threads together


@contextmanager
def triton_kernels() -> Iterator[None]:
    """Softmax over the last dim and matrix products on Triton's kernels, as long as this is open.

        with neo.kernels.triton_kernels():
            out, grads = neo.value_and_grad(loss, argnums=0)(params, x, y)

    It holds for torch.softmax, torch.matmul, @ and all that is made of their Policies, gradients of every order
    included, wherever Triton's kernels fit: tensors of one dtype (float32, float64, float16, bfloat16), not empty, on
    a GPU, outside of torch.func's transforms; softmax over the last dim, of at most 16384 entries. Torch's kernels
    compute the rest, among it F.linear with a bias (its gradients are products again).

    Numbers differ from torch's by rounding alone: float32 is multiplied as float32, never as TF32; float16 and bfloat16
    are summed in float32.

    Nobody has to use it: docs/benchmarks.md says how to measure which is faster for your sizes. Open it around whole
    gradients: a checkpoint that is opened forward and closed backward compares two roundings.

    Threads: it is one switch for the process, so that tasks on threads see it; open until the last thread that opened
    it has closed it. What another thread computes meanwhile is right by either kernel.

    TRITON_INTERPRET=1, set before Triton is first imported, runs the same kernels in Triton's interpreter on the CPU:
    for tests, for it is slow.

    Raises: ImportError without Triton, RuntimeError with neither a GPU nor the interpreter.
    Cost: each kernel is compiled when first called with a new dtype or block size: seconds, once (Triton caches it).
    """
    global _open
    kernels = _load()
    with _lock:
        _open += 1
        _use(kernels)
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if _open == 0:
                _use(_TORCH)


def _use(kernels: Kernels) -> None:
    global product, matmul, softmax, softmax_gradient, product_sum, matmul_sum
    product, matmul, softmax, softmax_gradient, product_sum, matmul_sum = kernels


def _load() -> Kernels:
    """Triton's kernels, imported no earlier than somebody asks for them."""
    if importlib.util.find_spec("triton") is None:
        raise ImportError(
            "triton_kernels: Triton is not installed. Install it with pip install 'neo-meta[triton]'; torch's CUDA "
            "builds bring it along"
        )
    from neo.kernels import _triton

    if not (_triton.INTERPRETED or torch.cuda.is_available()):
        raise RuntimeError(
            "triton_kernels: expected a GPU, and torch sees none. To try the kernels on the CPU, slowly, start Python "
            "with TRITON_INTERPRET=1"
        )
    return (
        _triton.product,
        _triton.matmul,
        _triton.softmax,
        _triton.softmax_gradient,
        _triton.product_sum,
        _triton.matmul_sum,
    )
