"""Which ops would stop the program until a GPU is done: seen on the CPU, where nothing waits, by their names.

No GPU takes part. An op that gives Python a number, or whose result has as many entries as the numbers say, makes CUDA
wait; torch's dispatcher shows each of them on the CPU as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["FAKE_LIMITS", "Synchronisations"]

NAMES = {
    "_assert_async",
    "_local_scalar_dense",
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}

# What torch's CPU build has to say where it cannot go on with fake tensors on "cuda".
FAKE_LIMITS = (
    "not linked with support for cuda",  # x[i] is one of those
    "not compiled with CUDA",
    "'NoneType' object has no attribute 'device'",  # LSTM cells without biases
)


class Synchronisations(TorchDispatchMode):
    """`seen`: the names of the synchronising ops that ran inside; with refuse=True the first of them raises."""

    def __init__(self, refuse: bool = False):
        super().__init__()
        self.refuse = refuse
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        waits = name in NAMES or (name in INDEXED and any(map(_is_mask, args[1])))
        if name in ("_to_copy", "copy_"):
            target = kwargs.get("device") if name == "_to_copy" and kwargs else args[0].device
            source = args[1] if name == "copy_" else args[0]
            waits = target is not None and torch.device(target).type == "cpu" != source.device.type
        if name == "repeat_interleave":
            waits = kwargs is None or kwargs.get("output_size") is None
        if waits:
            if self.refuse:
                raise AssertionError(f"{name} would wait for a GPU")
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
