"""torch.distributions on LiteTensors: the few places where it asks for torch.Tensor by class, and how they answer here.

All else of torch.distributions is written in torch functions, which LiteTensors answer. These four cannot be reached
so, and are wrapped where they stand; without a LiteTensor each does what it did.
"""

from __future__ import annotations

import functools
import numbers
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import distributions
from torch.overrides import TorchFunctionMode

from neo.autograd.tensor import LiteTensor
from neo.functions.casting import to
from neo.functions.registry import has_lite, raw

Distribution: Any = distributions.Distribution  # whose methods are replaced below
broadcast_by_torch = distributions.utils.broadcast_all
validate_by_torch = Distribution._validate_sample


@functools.wraps(broadcast_by_torch)
def broadcast_all(*values: Any) -> Any:
    """Numbers get the dtype and device of the first tensor, which torch looks for among torch.Tensors alone."""
    if has_lite(values):
        like = next(value for value in values if isinstance(value, torch.Tensor | LiteTensor))
        values = tuple(
            torch.tensor(value, dtype=like.dtype, device=like.device)
            if isinstance(value, numbers.Number)
            else value
            for value in values
        )
    return broadcast_by_torch(*values)


@functools.wraps(validate_by_torch)
def validate_sample(self: Any, value: Any) -> None:
    """A check of numbers, which asks no derivative."""
    validate_by_torch(self, raw(value))


class _AsTensor(TorchFunctionMode):
    """torch.as_tensor(x, dtype, device) of a LiteTensor is x.to(dtype, device)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.as_tensor and isinstance(args[0], LiteTensor):
            return to(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _keeping(log_prob: Callable[..., Any]) -> Callable[..., Any]:
    """log_prob that begins with torch.as_tensor(value)."""

    @functools.wraps(log_prob)
    def kept(self: Any, value: Any) -> Any:
        if not isinstance(value, LiteTensor):
            return log_prob(self, value)
        with _AsTensor():
            return log_prob(self, value)

    return kept


Distribution._validate_sample = validate_sample
_begin_with_as_tensor: tuple[Any, ...] = (distributions.Gamma, distributions.HalfCauchy)
for _kind in _begin_with_as_tensor:
    _kind.log_prob = _keeping(_kind.log_prob)
for _name, _module in list(sys.modules.items()):
    if _name.startswith("torch.distributions") and vars(_module).get("broadcast_all") is broadcast_by_torch:
        vars(_module)["broadcast_all"] = broadcast_all
