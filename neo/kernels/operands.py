"""Torch tensors as the compiled kernels read them: dense, in one layout, of the kernel's dtype."""

from __future__ import annotations

from typing import Any

import torch

from neo import kernels

__all__ = ["last", "per_channel", "plain"]

_LAST, _PLAIN = torch.channels_last, torch.contiguous_format


def last(image: Any, dtype: torch.dtype) -> Any:
    """An image channels-last; None stays None. A cotangent of another dtype comes to that of what it belongs to."""
    return None if image is None else _dense(image, dtype, _LAST)


def plain(tensor: Any, dtype: torch.dtype) -> Any:
    """A tensor contiguous; None stays None."""
    return None if tensor is None else _dense(tensor, dtype, _PLAIN)


def per_channel(param: Any, channels: int, like: torch.Tensor) -> bool:
    """Whether a parameter is None or holds a number for each channel, of the dtype and on the device of `like`.

    What is not goes to torch's kernels, which say what is wrong with it.
    """
    return param is None or (
        param.dtype is like.dtype
        and param.ndim == 1
        and param.shape[0] == channels
        and param.device == like.device
    )


def _dense(tensor: torch.Tensor, dtype: torch.dtype, layout: torch.memory_format) -> torch.Tensor:
    if tensor.dtype is not dtype:
        tensor = tensor.to(dtype)
    tensor = tensor.contiguous(memory_format=layout)
    if kernels.library.readable(tensor):
        return tensor
    # a view of a negated tensor, or one at an odd address: its numbers in memory of their own
    return torch.empty_like(tensor, memory_format=layout).copy_(tensor)
