"""CPU kernels of Neo's own, where torch has none as fast: the blocks of a convolutional net on channels-last images.

Torch's convolutions run at the processor's peak already; to be faster is to multiply less. These take a 3x3 convolution
of stride 1 by Winograd's algorithm, in a quarter of the products; one of stride 2 without its border of zeros, and of
larger images by Winograd's way too, in two thirds of the rest; batch norm with its rectifier and pooling in two passes
over memory; all that as one block, one call each for forward, backward and double backward (block.py); and the
first block without storing its largest image. Each call is one task's work on one thread, with the GIL released:
tasks run side by side (meta.parallel).

They are C, the same text for float32 and float64 (kernels.h), compiled for three kinds of vectors, of which the widest
that the processor has is chosen here. Policies use them where `ready` says so, and torch's kernels elsewhere; each has
its composition of torch functions as its oracle. Numbers differ from torch's by rounding alone.

Apart from these, direct.py holds a shorter way to torch's own functions, for tensors of a few numbers, and shares
products of matrices (matrix_product.h), convolutions in groups (group_convolution.h) and the passes of rows.py between
torch's threads, on the processors that `own_products` names.
On a GPU torch's kernels compute; `triton_kernels` (dense.py) puts Triton's in their place for softmax and matmul.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from neo.kernels import direct
from neo.kernels.dense import triton_kernels

__all__ = [
    "available",
    "library",
    "own_products",
    "ready",
    "refuse_transforms",
    "switched_off",
    "triton_kernels",
]

_transform = torch._C._functorch.peek_interpreter_stack  # the innermost open transform, or None
_autocast: Any = torch._C._is_any_autocast_enabled


def _load() -> Any:
    """The variant for this processor; None where the package was built without a C compiler that can make them."""
    capability = torch.backends.cpu.get_cpu_capability()  # what torch's own kernels were chosen by
    wider = {"AVX512": ("_avx512", "_avx2"), "AVX2": ("_avx2",)}.get(capability, ())
    for name in (*wider, "_baseline"):
        try:
            found: Any = importlib.import_module(f"neo.kernels.{name}")
        except ImportError:
            continue
        found.use_describe(direct.describe)
        return found
    return None


library: Any = _load()
_multiple = {} if library is None else {torch.float32: library.BYTES // 4, torch.float64: library.BYTES // 8}
_on = library is not None


def own_products() -> bool:
    """Whether products of matrices, convolutions in groups and what rows.py has run on Neo's kernels now: switched on,
    both extensions built, and an AMD processor, on which they are faster than torch's (docs/benchmarks.md). On others
    nothing was measured, and torch's serve."""
    return _on and library.AMD and direct.look is not None


def _use(on: bool) -> None:
    global _on
    _on = on
    direct.use_matrix(library.matrix if own_products() else None)
    direct.use_groups(library.groups if own_products() else None)
    direct.use_rows(library.rows if own_products() else None)


def available() -> bool:
    """Whether this build has kernels for this processor, they are switched on, and no torch.func transform is open:
    under vmap a tensor stands for a whole batch, and has no memory of its own to read. Nor may torch.autocast be on,
    which gives each op of a block a dtype of its own; within such an op it is off (neo.autograd.autocast)."""
    return _on and _transform() is None and not _autocast()


def refuse_transforms() -> None:
    """RuntimeError under a torch.func transform: for the ways back of an op whose forward ran on these kernels."""
    if _transform() is not None:
        raise RuntimeError(
            "this op ran on Neo's own CPU kernels, and its gradient was asked for inside vmap, where they cannot run. "
            "Have vmap run the whole: vmap(lambda g: vjp(fn, x)[1](g)) in place of vmap(vjp(fn, x)[1])."
        )


@contextmanager
def switched_off() -> Iterator[None]:
    """Torch's kernels alone, in every thread, as long as this lasts: for comparison."""
    before = _on
    _use(False)
    try:
        yield
    finally:
        _use(before)


def ready(x: torch.Tensor) -> bool:
    """Whether the kernels take x (n, channels, h, w): on the CPU, float32 or float64, channels-last, not empty, and
    channels a multiple of what one vector holds (16 float32 numbers at most)."""
    return available() and library.takes(x)


def fits(channels: int, dtype: torch.dtype) -> bool:
    """Whether so many channels of this dtype fill whole vectors."""
    multiple = _multiple.get(dtype)
    return multiple is not None and channels % multiple == 0


_use(_on)
