"""Whose code is asking: code written for torch, where in-place work has torch's meaning, or a user of Neo.

Code written for torch is what a converted module runs (`with torch_code():`), and the files of the torch package itself
(torch.distributions, the losses and activations of torch.nn). Everywhere else a LiteTensor is a value.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import optree

from neo.autograd._tensor import in_torch_code, torch_code

__all__ = ["asked_by_name", "asked_by_neo", "asked_by_torch", "may_write", "torch_code"]


def asked_by_torch() -> bool:
    """Is the nearest caller outside of Neo code written for torch?"""
    return in_torch_code() or _belongs(_outside(sys._getframe(1)), "torch")


def asked_by_neo() -> bool:
    """Is Neo's own code the nearest caller outside of the torch package, this module and its caller left out?"""
    frame: FrameType | None = sys._getframe(2)
    while _belongs(frame, "torch"):
        assert frame is not None
        frame = frame.f_back
    return _belongs(frame, "neo")


def asked_by_name(*names: str) -> bool:
    """Does the code that called the caller use one of these names? Which builtin it calls is not to be seen."""
    used = sys._getframe(2).f_code.co_names
    return any(name in used for name in names)


def may_write(tensors: list[Any]) -> bool:
    """May in-place work on these LiteTensors, which lie on the same memory, have torch's meaning here?

    Not in the user's own code, nor where torch's code works on what the user's code has given it: that is the user's
    value, and stays as it is.
    """
    if in_torch_code():
        return True
    frame = _outside(sys._getframe(1))
    if not _belongs(frame, "torch"):
        return False
    while frame is not None and _belongs(_outside(frame.f_back), "torch"):
        frame = _outside(frame.f_back)
    return not any(given is tensor for given in _arguments(frame) for tensor in tensors)


def _outside(frame: FrameType | None) -> FrameType | None:
    """The nearest frame that is not of Neo's own code."""
    while _belongs(frame, "neo"):
        assert frame is not None
        frame = frame.f_back
    return frame


def _belongs(frame: FrameType | None, package: str) -> bool:
    name = "" if frame is None else frame.f_globals.get("__name__", "")
    return name == package or name.startswith(f"{package}.")


def _arguments(frame: FrameType | None) -> list[Any]:
    """What a call got, with what stands in plain containers."""
    if frame is None:
        return []
    code = frame.f_code
    count = (
        code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
    )
    given: Any = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
    return optree.tree_leaves(given)
