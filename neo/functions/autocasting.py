"""What torch.autocast does with an op's arguments: the lists of torch, and the casts, recorded.

Under torch.autocast torch casts the floating-point arguments of listed ops; the result has the dtype that the op
computed in. Here the same casts are Neo's own (casting.py), so that gradients come back in the dtypes of the arguments,
and the op then runs with autocast off: no rule of Neo's meets it. As in torch, float64 is left alone, and so is what
lies on another kind of device than autocast is on for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from neo.autograd import _function, autocast
from neo.autograd.tensor import LiteTensor
from neo.errors import AutocastError
from neo.functions._cast import cast
from neo.functions.autocast_lists import (
    FLOAT32,
    FLOAT32_SUM,
    LISTS,
    LOWER,
    LOWER_RESULT,
    REFUSED,
    WIDEST,
    WITHIN,
    Kind,
)

__all__ = ["call", "call_function", "kinds_of"]

Kinds = dict[str, Kind]
"""Kind of device -> what autocast does there with an op's arguments, one of autocast_lists' kinds."""


def kinds_of(names: Iterable[str]) -> Kinds | None:
    """What autocast does with the op that torch knows under these names; None where it is in no list."""
    names = [name.removeprefix("special_") for name in names]
    kinds = {
        device: listed[name] for device, listed in LISTS.items() for name in reversed(names) if name in listed
    }
    return kinds or None


def call(kinds: Kinds | None, run: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """run(*args, **kwargs) with arguments cast as autocast casts those of an op of these kinds; no autocast within.

    Raises: NotImplementedError under autocast for a kind of device that Neo has no lists of; AutocastError for what
    torch refuses to autocast, and where the widest of two half precisions is asked for.
    """
    with autocast.off() as on:
        for device, lower in on:
            if device not in LISTS:
                raise NotImplementedError(
                    f"torch.autocast({device!r}): Neo knows what autocast does with which op on {' and '.join(LISTS)} "
                    f"alone. Leave autocast off, and cast by hand: x.to({lower})."
                )
            listed = None if kinds is None else kinds.get(device)
            kind = listed(*args, **kwargs) if callable(listed) else listed
            if kind is None or not any(
                _eligible(value, device) for value in _tensors((args, *kwargs.values()))
            ):
                continue
            if kind is WITHIN or kind is LOWER_RESULT:
                break
            args, kwargs = _cast_arguments(kind, device, lower, args, kwargs)
        else:
            return run(*args, **kwargs)
    out = run(*args, **kwargs)
    return _cast(out, device, lower) if kind is LOWER_RESULT else out


def call_function(function: _function.Function, args: tuple) -> Any:
    """A Function's call under autocast. A user's own Policy meets it, as a torch.autograd.Function does."""
    if function.autocast is None and not function.verified:
        return function.apply_as_given(args)
    return call(function.autocast, lambda *args: function.apply_as_given(args), args, {})


def _cast_arguments(
    kind: str, device: str, lower: torch.dtype, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    if kind is REFUSED:
        raise AutocastError(REFUSED)
    if kind is FLOAT32_SUM:
        if kwargs.get("dtype") is not None or any(isinstance(arg, torch.dtype) for arg in args):
            return args, kwargs
        kind = FLOAT32
    if kind is WIDEST:
        dtype = _widest(lower, device, _tensors((args, *kwargs.values())))
    else:
        dtype = lower if kind is LOWER else torch.float32
    return _cast(args, device, dtype), {name: _cast(value, device, dtype) for name, value in kwargs.items()}


def _eligible(value: Any, device: str) -> bool:
    dtype = value.dtype
    return dtype.is_floating_point and dtype is not torch.float64 and value.device.type == device


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, LiteTensor | torch.Tensor):
        return [value]
    if type(value) in (list, tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _cast(value: Any, device: str, dtype: torch.dtype) -> Any:
    """Eligible tensors in value, also in lists and tuples, as dtype."""
    if isinstance(value, LiteTensor | torch.Tensor):
        if value.dtype is dtype or not _eligible(value, device):
            return value
        return cast(value, dtype, value.device) if isinstance(value, LiteTensor) else value.to(dtype)
    if type(value) in (list, tuple):
        return type(value)(_cast(item, device, dtype) for item in value)
    return value


def _widest(lower: torch.dtype, device: str, tensors: list[Any]) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in tensors if _eligible(tensor, device)}
    if torch.float32 in dtypes:
        return torch.float32
    if dtypes - {lower}:
        raise AutocastError(
            f"autocast to {lower} met {', '.join(map(str, dtypes - {lower}))}, and neither is the wider one; torch "
            f"refuses it too. Cast to float32 before."
        )
    return lower
