"""Programs of recorded kernel calls, replayed by C++ (_replay.cpp) where that was built for the torch at hand."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["Program", "Storages", "aten", "available", "callable", "changed", "view"]


def _load() -> Any:
    try:
        from neo.kernels import _replay
    except ImportError:
        return None
    return _replay if torch.__version__.partition("+")[0] == _replay.TORCH else None


_library: Any = _load()
available = _library is not None
aten: Any = getattr(_library, "aten", None)
"""(name, overload, args, kwargs, slots, from_block) → a call of an op of torch's.

slots: address of a tensor → its slot. from_block: it draws from the generator that a replay is given."""
callable: Any = getattr(_library, "callable", None)
"""(function, args, kwargs, slots) → a call of a function of tensors, and of tuples of them."""
view: Any = getattr(_library, "view", None)
"""(slot, size, stride, further) → a view of the memory of what lies in a slot, `further` entries after its start."""
changed: Any = getattr(_library, "changed", None)
"""(tensors, before) → the places at which they differ in a bit; None in `before` is passed over."""
Storages: Any = getattr(_library, "Storages", None)
"""(objects): the addresses of the storages of the tensors among them, kept from being given to others."""
Program: Any = getattr(_library, "Program", None)
"""(held, inputs, slots, steps, outputs): neo/_recording/program.py. replay(tensors, generator or None) → tensors."""
