"""Tensors made of a few numbers: filled, evenly spaced. A 0-dim LiteTensor among those numbers gets its gradient.

dtypes are those that torch gives to the same call on plain numbers.
"""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd._numbers import is_tracked
from neo.autograd.tensor import LiteTensor
from neo.errors import NumberError
from neo.functions.elementwise import is_number
from neo.functions.registry import implements, lite, raw


def _filled(value: LiteTensor, made: torch.Tensor) -> Any:
    """`value` in every entry, in the shape, dtype and device of `made`."""
    return value.to(made.device, made.dtype).expand(tuple(made.shape)).contiguous()


def _number(value: Any) -> Any:
    """The plain number of a tensor or number: for shapes and dtypes, not for the result."""
    return value if is_number(value) else raw(value).item()


@implements(torch.full, scalars=("fill_value",))
def full(size, fill_value, **options):
    """A tensor of one number."""
    made = torch.full(size, _number(fill_value), **options)
    return lite(made) if is_number(fill_value) else _filled(fill_value, made)


@implements(torch.full_like, scalars=("fill_value",))
def full_like(x, fill_value, **options):
    """One number in the shape, dtype and device of x."""
    made = torch.full_like(raw(x), _number(fill_value), **options)
    if is_number(fill_value):
        return lite(made) if isinstance(x, LiteTensor) else made
    return _filled(fill_value, made)


@implements(torch.Tensor.new_full, scalars=("fill_value",))
def new_full(x, size, fill_value, **options):
    """One number in a shape of its own, in the dtype and device of x."""
    made = raw(x).new_full(size, _number(fill_value), **options)
    if is_number(fill_value):
        return lite(made) if isinstance(x, LiteTensor) else made
    return _filled(fill_value, made)


@implements(torch.scalar_tensor, scalars=("s",))
def scalar_tensor(s, **options):
    """A number as a 0-dim tensor."""
    made = torch.scalar_tensor(_number(s), **options)
    return lite(made) if is_number(s) else _filled(s, made)


@implements(torch.linspace, scalars=("start", "end"))
def linspace(start, end, steps, **options):
    """`steps` numbers from start to end, evenly: start (1 − t) + end t, t from 0 to 1."""
    made = torch.linspace(_number(start), _number(end), steps, **options)
    if is_number(start) and is_number(end):
        return lite(made)
    t = torch.linspace(0, 1, steps, dtype=made.dtype, device=made.device)
    first, last = (end if is_number(end) else end.to(made.device, made.dtype) for end in (start, end))
    return first * (1 - t) + last * t


@implements(torch.logspace, scalars=("start", "end", "base"))
def logspace(start, end, steps, base=10.0, **options):
    """base to the powers of linspace(start, end, steps)."""
    made = torch.logspace(_number(start), _number(end), steps, _number(base), **options)
    if is_number(start) and is_number(end) and is_number(base):
        return lite(made)
    powers = linspace(start, end, steps, dtype=made.dtype, device=made.device)
    return (base if is_number(base) else base.to(made.device, made.dtype)) ** powers


@implements(torch.arange, numbers=("bounds", "start", "end"))
def arange(*bounds, start=None, end=None, **options):
    """Numbers from start up to end by step. Its length depends on them: no gradient."""
    named = {key: value for key, value in (("start", start), ("end", end)) if value is not None}
    make: Any = torch.arange
    return lite(make(*bounds, **named, **options))


def _factory(make: Any) -> None:
    """A factory whose sizes and bounds may be integer LiteTensors."""

    def made(*sizes: Any, **options: Any) -> Any:
        return lite(make(*sizes, **options))

    made.__name__ = made.__qualname__ = make.__name__
    made.__module__ = __name__
    made.__doc__ = f"torch.{make.__name__}, as a LiteTensor."
    implements(make, numbers=("sizes",))(made)


for _make in (
    torch.zeros,
    torch.ones,
    torch.empty,
    torch.rand,
    torch.randn,
    torch.randint,
    torch.randperm,
    torch.eye,
):
    _factory(_make)


@implements(torch.Tensor.new_tensor)
def new_tensor(x, data, **options):
    """A copy of data in the dtype and device of x: a constant, so that data must be one too.

    Raises: NumberError where data is, or holds, a LiteTensor that an open session tracks.
    """
    if _holds_tracked(data):
        raise NumberError(
            "new_tensor: data must be constant, got a LiteTensor that an open session tracks, and new_tensor copies "
            "numbers alone: its gradient would be lost. Use torch.stack or torch.cat, or data.detach() for a constant."
        )
    made = raw(x).new_tensor(_plain(data), **options)
    return lite(made) if isinstance(x, LiteTensor) else made


def _holds_tracked(data: Any) -> bool:
    if isinstance(data, list | tuple):
        return any(_holds_tracked(item) for item in data)
    return is_tracked(data)


def _plain(data: Any) -> Any:
    """Nested lists with the tensors in them as plain numbers."""
    if isinstance(data, list | tuple):
        return [_plain(item) for item in data]
    return raw(data).tolist() if isinstance(data, LiteTensor) else data
