"""Conditions on numbers, checked without making anybody wait for a device.

To read a number that a GPU has still to compute stops the program until the GPU is done. What is only to be guarded
(recomputation gave the same values, labels are in range) is not worth that: on the CPU `require` looks at once; of a
device it keeps the condition there, and looks when the program reads a number from a LiteTensor, and waits anyway.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._C import _functorch

from neo.errors import CaptureError

__all__ = ["known", "require", "settle"]

_pending: dict[tuple[str, torch.device], tuple[torch.Tensor, Exception]] = {}


def known(flag: torch.Tensor) -> bool | None:
    """The truth of a 0-dim tensor; None where it cannot be had at once: on a device, inside vmap, without numbers, and
    while neo.capture records, whose replays may have another."""
    if type(flag) is not torch.Tensor or not flag.is_cpu or _functorch.is_functorch_wrapped_tensor(flag):
        return None
    try:
        return bool(flag.tolist())
    except CaptureError:
        return None


def require(flag: torch.Tensor, error: Callable[[], Exception]) -> None:
    """Raise error() unless flag, a 0-dim tensor, holds: now, or when a number is next read where it is on a device.

    Inside vmap it must hold for every example. Tensors without numbers (meta, fake) pass. While neo.capture records on
    the CPU, the condition is recorded too: a replay raises RuntimeError with the error's words where it does not hold.
    Memory: one flag for each type and message of error that is pending on a device.
    """
    while _functorch.is_functorch_wrapped_tensor(flag):
        flag = _functorch.get_unwrapped(flag).all()
    truth = known(flag)
    if truth is None and _in_recording(flag):
        torch._assert_async(flag, str(error()))
    elif truth is None and type(flag) is torch.Tensor and not flag.is_meta:
        failure = error()
        key = (repr(failure), flag.device)
        before = _pending.get(key)
        _pending[key] = (flag if before is None else before[0] & flag, failure)
    elif truth is False:
        raise error()


def _in_recording(flag: torch.Tensor) -> bool:
    """Does neo.capture record this thread's work on the CPU, with `flag` among what it makes?"""
    if type(flag) is not torch.Tensor or not flag.is_cpu:
        return False
    try:
        flag.tolist()
    except CaptureError:
        return True
    return False


def settle() -> None:
    """Raise the error of a condition on a device that did not hold. Waits for the device where one is pending."""
    while _pending:
        _, (flag, error) = _pending.popitem()
        if not bool(flag):
            _pending.clear()
            raise error
