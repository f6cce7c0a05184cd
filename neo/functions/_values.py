"""Between LiteTensors and the torch tensors behind them, also in lists and tuples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from neo.autograd.tensor import LiteTensor

__all__ = ["has_lite", "lite", "raw"]


def raw(value: Any) -> Any:
    """The torch tensor behind a LiteTensor or array, also in lists and tuples; anything else as it is."""
    if isinstance(value, LiteTensor):
        return value.data
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if type(value) in (list, tuple):
        return type(value)(raw(item) for item in value)
    return value


def lite(value: Any) -> Any:
    """torch tensors as LiteTensors, also in tuples and lists (named tuples become tuples)."""
    if isinstance(value, torch.Tensor):
        return LiteTensor(value)
    if isinstance(value, tuple):
        return tuple(lite(item) for item in value)
    return [lite(item) for item in value] if isinstance(value, list) else value


def has_lite(values: Any) -> bool:
    return any(isinstance(v, LiteTensor) or (type(v) in (list, tuple) and has_lite(v)) for v in values)
