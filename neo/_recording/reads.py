"""Reads of a tensor's numbers that no torch mode sees: refused while a thread records."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from neo._recording.recorder import Recorder

__all__ = ["refused"]

_READS = ("numpy", "tolist", "data_ptr", "__array__", "__dlpack__", "__reduce_ex__", "__deepcopy__")
_lock = threading.RLock()
_recorders: list[Recorder] = []


@contextmanager
def refused(recorder: Recorder) -> Iterator[None]:
    """Inside, this thread gets CaptureError for tensor.numpy() and its kin where the numbers may be others at a replay.

    torch.Tensor has its methods replaced meanwhile: a mode for torch's functions would not be asked by Neo's rules,
    which switch it off.
    """
    with _lock:
        _recorders.append(recorder)
        if len(_recorders) == 1:
            _replaced.update({name: torch.Tensor.__dict__.get(name) for name in _READS})
            for name in _READS:
                setattr(torch.Tensor, name, _asking(name, getattr(torch.Tensor, name)))
    try:
        yield
    finally:
        with _lock:
            _recorders.remove(recorder)
            if not _recorders:
                for name, method in _replaced.items():
                    if method is None:
                        delattr(torch.Tensor, name)
                    else:
                        setattr(torch.Tensor, name, method)


_replaced: dict[str, Any] = {}


def _asking(name: str, method: Any) -> Any:
    def read(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        for recorder in tuple(_recorders):
            if recorder.tracks(tensor):
                recorder.refuse(
                    f"Tensor.{name}() reads numbers, which Python would decide by once and for all"
                )
        return method(tensor, *args, **kwargs)

    return read
