"""What a contender gives to its worker. Imports nothing but numpy: JAX's environment has neither torch nor Neo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Arrays", "NotInstalled", "Setting", "Spec", "Step"]

Arrays = dict[str, np.ndarray]
Setting = Mapping[str, str]
"""One way to run a contender, option → value: {"layout": "channels_last", "allocator": "raised"}."""


class Spec(NamedTuple):
    """What to build, as the worker is told."""

    work: Mapping[str, Any]  # the fields of a work, see works.py
    peer: str
    setting: Setting
    problem: str  # the .npz file that holds weights, images and labels, the same for all
    device: str  # cpu, cuda, cuda:1 ...
    clock: str = "wall"  # or processor: the time of all this process's threads, which other work moves little


class Step(NamedTuple):
    """One turn of a contender.

    run: the work that is timed; on CUDA it may return before the device is done.
    result: what run returned → arrays by name, compared between the contenders before anything is timed.
    """

    run: Callable[[], Any]
    result: Callable[[Any], Arrays]


class NotInstalled(Exception):
    """The contender's library is not there; the message says how to get it."""
