"""Measuring memory: what the process has in RAM (on a GPU, torch has allocated), and what a function takes of it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.profiler import profile

from neo.kernels import direct

__all__ = ["Meter", "peak_of_process"]


def peak_of_process() -> int:
    """The most bytes that this process has had in RAM, libraries and all: of itself, not of who started it."""
    return _status("VmHWM")


class Meter:
    """Peaks of one process on one device.

    Raises: ValueError where the system does not tell: without a GPU Linux is needed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cpu":
            self.resident()

    def resident(self) -> int:
        """Bytes that are taken now."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return _status("VmRSS")

    def peak(self) -> int:
        """The most bytes so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _status("VmHWM")

    def taken(self, fn: Callable[[], Any]) -> int:
        """The most bytes of tensors that fn has at once, beyond those there were; fn keeps to this thread.

        On a CPU to the byte, from every call of torch's allocator. Raises: what fn raises.
        """
        gc.collect()
        if self.device.type == "cuda":  # not yet run on one
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            before = self.resident()
            fn()
            torch.cuda.synchronize(self.device)
            return self.peak() - before
        with direct.no_idle_memory(), profile(use_cpu=True, profile_memory=True) as profiled:
            fn()
        events: Any = profiled.kineto_results
        now = most = 0
        for _, size in sorted((e.start_ns(), e.nbytes()) for e in events.events() if e.name() == "[memory]"):
            now += size
            most = max(most, now)
        return most


NEEDED = "memory is planned on Linux, or on a GPU, where the system tells what a process takes"


def _status(key: str) -> int:
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith(f"{key}:"))
    except (OSError, StopIteration) as error:
        raise ValueError(f"/proc/self/status does not tell {key}; {NEEDED}.") from error
