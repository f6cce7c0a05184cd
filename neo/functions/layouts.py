"""Where Neo chooses how images lie in memory: code written for torch then meets copies in the place of views.

A converted module with convolutions (neo/nn/_torch/fusion.py) has its images channels-last inside. What torch
gives as a view of contiguous images, x.view(n, -1) say, is then a copy. Nobody can tell until one of the two is written
to in place while somebody still holds the other: that raises NotAView, and the module is run again in torch's layout.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch

from neo import kernels
from neo.autograd._aliases import aliases_of
from neo.autograd.tensor import LiteTensor

__all__ = ["NotAView", "expect_no_copy", "in_own_layout", "note_copy", "own_layout", "own_layouts"]


class NotAView(BaseException):
    """Torch's code writes to what would have been a view, or to what it would have been a view of, or counts in memory.

    No Exception, so that no `except Exception` in a module takes it. Whoever opened own_layouts runs the code again.
    """


class _Here(threading.local):
    copies: list[tuple[Any, Any]] | None = (
        None  # weakly: images, what stands for a view of them; None outside
    )


_here = _Here()


@contextmanager
def own_layouts() -> Iterator[None]:
    """Within, Neo chooses how images lie in memory."""
    before, _here.copies = _here.copies, []
    try:
        yield
    finally:
        _here.copies = before


def own_layout(x: Any) -> bool:
    """Whether x lies as Neo chose, channels-last, so that what torch would give as a view of it may be a copy."""
    return (
        _here.copies is not None
        and kernels.available()
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def in_own_layout(x: Any) -> Any:
    """Images (n, channels, h, w) channels-last, where Neo's kernels would take them; anything else as it is."""
    if (
        isinstance(x, LiteTensor | torch.Tensor)
        and x.ndim == 4
        and x.device.type == "cpu"
        and kernels.available()
    ):
        return x.contiguous(memory_format=torch.channels_last)
    return x


def note_copy(x: Any, out: Any) -> None:
    """`out` is a copy of x where torch would have given a view."""
    if _here.copies is not None and isinstance(x, LiteTensor) and isinstance(out, LiteTensor):
        _here.copies.append((ref(x), ref(out)))


def expect_no_copy(target: LiteTensor) -> None:
    """Raise NotAView if target is about to change, and somebody holds what would change with it in torch's layout."""
    if not _here.copies:
        return
    same = [target, *aliases_of(target)]
    for pair in _here.copies:
        held = [one() for one in pair]
        if None not in held and any(one is member for one in held for member in same):
            raise NotAView
