"""Another dtype, another device, another layout, another copy. The gradient is cast back."""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd._batched import is_batched
from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions._cast import cast
from neo.functions.registry import implements


class Layout(Policy):
    """y = x in another memory format, or a copy;  x̄ = ȳ."""

    verified = True

    def forward(self, x, memory_format, copy):
        self.ctx.save(memory_format, copy)
        if copy:
            return x.clone(memory_format=memory_format)
        if is_batched(x):  # the layout is a hint to kernels, and an example in a batch has none of its own
            return x.detach()
        if memory_format is torch.channels_last and x.ndim == 4 and x.shape[1] == 1:
            return _one_channel_last(x)
        return x.contiguous(memory_format=memory_format)

    def backward(self, y_bar):
        return y_bar

    def jvp(self, x_dot):
        memory_format, copy = self.ctx.release
        return x_dot if copy else laid_out(x_dot, memory_format, False)  # so that kernels meet x's own layout


def _one_channel_last(x: torch.Tensor) -> torch.Tensor:
    """One channel has the same numbers in the same order either way; only these strides make torch go on in
    channels-last."""
    n, _, h, w = x.shape
    return x.contiguous().as_strided((n, 1, h, w), (h * w, 1, w, 1))


laid_out = function(Layout, "contiguous")


@implements(torch.Tensor.to)
def to(x, *args, dtype=None, device=None, non_blocking=False, copy=False, memory_format=None):
    """x as another dtype or on another device: to(dtype), to(device, dtype), to(other).

    A cast from or to integers has no derivative, and gives a constant.
    """
    copy = copy or [arg for arg in args if isinstance(arg, bool)][1:] == [True]  # after non_blocking
    for arg in args:
        if isinstance(arg, torch.dtype):
            dtype = arg
        elif isinstance(arg, torch.Tensor | LiteTensor):
            dtype, device = arg.dtype, arg.device
        elif isinstance(arg, torch.device | str) or (isinstance(arg, int) and not isinstance(arg, bool)):
            device = arg
    if dtype is not None and not dtype.is_floating_point:
        if dtype.is_complex:
            raise NotImplementedError(f"to({dtype}): Neo has no rules for complex numbers")
        return _constant(x, lambda data: data.to(device=device, dtype=dtype, copy=copy))
    changes = (dtype is not None and dtype is not x.dtype) or (
        device is not None and torch.device(device) != x.device
    )
    if changes:
        x = cast(x, dtype, device)
    elif copy:
        return laid_out(x, memory_format or torch.preserve_format, True)
    return (
        x
        if memory_format is None or memory_format is torch.preserve_format
        else laid_out(x, memory_format, False)
    )


def _constant(x: Any, change: Any) -> Any:
    return LiteTensor(change(x.data)) if isinstance(x, LiteTensor) else change(x)


@implements(torch.Tensor.type_as)
def type_as(x, other):
    return to(x, other.dtype)


@implements(torch.Tensor.float)
def float(x, memory_format=None):
    return to(x, torch.float32, memory_format=memory_format)


@implements(torch.Tensor.double)
def double(x, memory_format=None):
    return to(x, torch.float64, memory_format=memory_format)


@implements(torch.Tensor.half)
def half(x, memory_format=None):
    return to(x, torch.float16, memory_format=memory_format)


@implements(torch.Tensor.bfloat16)
def bfloat16(x, memory_format=None):
    return to(x, torch.bfloat16, memory_format=memory_format)


@implements(torch.Tensor.cpu)
def cpu(x, memory_format=torch.preserve_format):
    return to(x, device="cpu", memory_format=memory_format)


@implements(torch.Tensor.cuda)
def cuda(x, device=None, non_blocking=False, memory_format=torch.preserve_format):
    return to(x, device="cuda" if device is None else device, memory_format=memory_format)


@implements(torch.Tensor.contiguous)
def contiguous(x, memory_format=torch.contiguous_format):
    """x in a memory format; itself if it is in it already."""
    if memory_format is not torch.channels_last and x.is_contiguous(memory_format=memory_format):
        return x
    return laid_out(x, memory_format, False)


@implements(torch.clone)
def clone(x, *, memory_format=torch.preserve_format):
    """A copy of x."""
    return laid_out(x, memory_format, True)


# --- views of complex numbers, which real ones are too -------------------------------------------------------


@implements(
    torch.conj, torch.conj_physical, torch.resolve_conj, torch.resolve_neg, torch.Tensor.conj, name="conj"
)
def conj(x):
    """x itself: LiteTensors are real."""
    return x


@implements(torch.real)
def real(x):
    """x itself: LiteTensors are real."""
    return x


LiteTensor.real = property(lambda x: x, doc="x itself: LiteTensors are real.")  # type: ignore[attr-defined]
