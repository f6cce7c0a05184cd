"""Where in the user's code a recording is: what its errors end with."""

from __future__ import annotations

import linecache
import sys
import types
from pathlib import Path

import torch

__all__ = ["place"]

_INNER = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))  # torch and neo
_GENERATED = "<"  # how the names of files begin that are none


def place() -> str:
    """ " At file:line, in function: code", of the innermost call that is neither torch's nor Neo's; "" without one."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((*_INNER, _GENERATED)):
        frame = frame.f_back
    if frame is None:
        return ""
    code = frame.f_code
    line = linecache.getline(code.co_filename, frame.f_lineno).strip()
    return f" At {code.co_filename}:{frame.f_lineno}, in {code.co_name}: {line}"
