"""Where forward may have put a tensor behind a context's back: in objects, closures and containers, at any depth."""

from __future__ import annotations

import functools
import gc
import types
from typing import Any

import numpy as np
import torch

__all__ = ["holds_tensor"]

_PLAIN = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type,
    types.ModuleType,
    types.CodeType,
    torch.dtype,
    torch.device,
)
_LIMIT = 500  # things looked at: what is deeper in is nothing that a forward puts there


def holds_tensor(value: Any, constants: list[Any]) -> bool:
    """Is there a floating-point tensor in this value, other than those marked as constants?"""
    waiting, seen = [value], 0
    known = {id(constant) for constant in constants}
    while waiting and seen < _LIMIT:
        one = waiting.pop()
        if one is None or id(one) in known or isinstance(one, _PLAIN):
            continue
        known.add(id(one))
        seen += 1
        if isinstance(one, torch.Tensor):
            if one.is_floating_point():
                return True
        elif hasattr(one, "__torch_function__"):  # a LiteTensor
            return True
        else:
            waiting.extend(_inside(one))
    return False


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, torch.nn.Module | np.ndarray):  # its parameters are constants, as a closure's are
        return []
    held = list(getattr(value, "__dict__", {}).values())
    held += [
        getattr(value, name, None) for name in getattr(type(value), "__slots__", ()) if isinstance(name, str)
    ]
    return held or (gc.get_referents(value) if hasattr(value, "__next__") else [])


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
