"""The machine and the software that numbers come from: devices, threads, versions."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy
import torch

from meta.distributed import ALONE, Ranks

__all__ = ["device_name", "resolve_device", "resolve_workers", "versions"]


def resolve_device(device: str) -> torch.device:
    """auto, cpu, cuda or cuda:1 → the device. Raises: ValueError where there is no such device here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"invalid device={device!r}; choose device=auto, cpu or cuda.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={device} was asked for, but torch {torch.__version__} finds {torch.cuda.device_count()} CUDA "
            "devices here; choose device=cpu or device=auto, or install a CUDA build of torch."
        )
    return chosen


def resolve_workers(workers: int | str, device: torch.device, ranks: Ranks = ALONE) -> int | None:
    """How many threads tasks run on; None on a GPU, where kernels queue up anyway.

    auto: as many as torch has; where several ranks share a machine, as many as each has cores.

    Raises: ValueError for what is neither auto nor a number of threads.
    """
    if workers != "auto" and not (isinstance(workers, int) and workers >= 1):
        raise ValueError(
            f"invalid workers={workers!r}; choose workers=auto, or a number of threads of 1 or more."
        )
    if device.type != "cpu":
        return None
    if workers != "auto":
        return int(workers)
    return torch.get_num_threads() if ranks.local_size == 1 else ranks.cores


def device_name(device: torch.device) -> str:
    """What a result says of the machine: the GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {threads} thread{'s' if threads != 1 else ''}"


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    try:
        neo = version("neo-meta")
    except PackageNotFoundError:  # a checkout that is not installed
        neo = "checkout"
    return {
        "neo": neo,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }
