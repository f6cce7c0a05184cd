"""A contender's own process: builds its Step, and takes a turn when told to. python -m benchmarks.worker

Requests and replies are JSON, one a line, over stdin and stdout:
    {"do": "build", "spec": {...}, "memory_limit": bytes or null}    -> {}
    {"do": "run"}                   -> {"seconds": of this turn, "peak_bytes": most memory used so far}
    {"do": "check", "path": file}   -> {"seconds": ...}; a turn whose result is written there (.npz)
Whatever goes wrong comes back as {"error": sentence, "kind": class of the exception}; end of input ends the process.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

import numpy as np

from benchmarks.step import Spec, Step

__all__ = ["BUILDERS", "Serving", "serve"]

PEERS = "benchmarks.peers"
BUILDERS = {  # (kind of work, contender) → module and function
    ("meta_step", "neo"): f"{PEERS}.neo:meta_step",
    ("meta_step", "learn2learn"): f"{PEERS}.learn2learn:meta_step",
    ("meta_step", "higher"): f"{PEERS}.higher:meta_step",
    ("meta_step", "torch"): f"{PEERS}.torch:meta_step",
    ("meta_step", "torch_func_loop"): f"{PEERS}.torch_func:loop",
    ("meta_step", "torch_func_vmap"): f"{PEERS}.torch_func:vmapped",
    ("meta_step", "jax"): f"{PEERS}.jax:meta_step",
    **{
        ("meta_module", peer): f"{PEERS}.{builder}"
        for peer, builder in {
            "neo": "neo:meta_step",
            "learn2learn": "learn2learn:meta_step",
            "higher": "higher:meta_step",
            "torch": "torch:meta_step",
            "torch_func_loop": "torch_func:loop",
            "torch_func_vmap": "torch_func:vmapped",
            "jax": "jax:meta_step",
        }.items()
    },
    ("meta_step", "machine"): "benchmarks.rates:rates",
    ("training", "neo"): f"{PEERS}.neo:training",
    ("training", "torch"): f"{PEERS}.torch:training",
    ("chain", "neo"): f"{PEERS}.chain:neo_operators",
    ("chain", "neo_functions"): f"{PEERS}.chain:neo_functions",
    ("chain", "torch"): f"{PEERS}.chain:torch_eager",
    ("draws", "neo"): f"{PEERS}.draws:neo_sampler",
    ("draws", "learn2learn"): f"{PEERS}.learn2learn:draws",
    ("draws", "learn2learn_in_memory"): f"{PEERS}.learn2learn:draws_in_memory",
    ("unroll", "neo"): f"{PEERS}.neo:unroll",
}


class Serving:
    """What a worker does for each request."""

    def __init__(self) -> None:
        self.step: Step | None = None
        self.device = "cpu"
        self.clock = time.perf_counter

    def build(self, spec: dict[str, Any], memory_limit: int | None) -> dict[str, Any]:
        if memory_limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory_limit, memory_limit))
        wanted = Spec(**spec)
        self.device = wanted.device
        self.clock = time.process_time if wanted.clock == "processor" else time.perf_counter
        module, _, function = BUILDERS[wanted.work["kind"], wanted.peer].partition(":")
        step = getattr(importlib.import_module(module), function)(wanted)
        self.step = _repeated(step, wanted.work.get("repeats", 1))
        return {}

    def run(self) -> dict[str, Any]:
        seconds, _ = self._timed()
        return {"seconds": seconds, "peak_bytes": self._peak_bytes()}

    def check(self, path: str) -> dict[str, Any]:
        seconds, output = self._timed()
        assert self.step is not None
        np.savez(path, **self.step.result(output))  # type: ignore[arg-type]
        return {"seconds": seconds}

    def _timed(self) -> tuple[float, Any]:
        assert self.step is not None
        gc.collect()  # garbage of earlier turns is not this turn's
        if self.device.startswith("cuda"):
            return _timed_on_cuda(self.step.run, self.device)
        began = self.clock()
        output = self.step.run()
        return self.clock() - began, output

    def _peak_bytes(self) -> int:
        if self.device.startswith("cuda"):
            import torch

            return torch.cuda.max_memory_allocated(self.device)
        return _peak_resident_bytes()


def _repeated(step: Step, times: int) -> Step:
    """A step whose turn is so many of the given one's."""

    def run() -> Any:
        for _ in range(times - 1):
            step.run()
        return step.run()

    return step if times == 1 else Step(run, step.result)


def _timed_on_cuda(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Between two events on the device; the first is recorded when everything before has ended."""
    import torch

    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        output = run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000, output


def _peak_resident_bytes() -> int:
    """The most memory this process has had in RAM, libraries and all.

    VmHWM and not ru_maxrss where there is one: Linux hands a parent's peak down to the process that it starts.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def serve(requests: Iterable[str], replies: TextIO) -> None:
    """Answer each line of requests, until there are no more."""
    serving = Serving()
    for line in requests:
        request = json.loads(line)
        try:
            reply = getattr(serving, request.pop("do"))(**request)
        except Exception as error:  # handed to the parent, which knows whether it matters
            said = " ".join(str(error).split()) or type(error).__name__
            reply = {"error": said[:500], "kind": type(error).__name__}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not be taken for a reply
    serve(sys.stdin, answers)
