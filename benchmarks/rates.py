"""The machine's own rates, in the same run and at torch's own number of threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.flops import layers
from benchmarks.step import Arrays, Spec, Step
from benchmarks.torch_problem import to_layout
from benchmarks.works import MetaStep

__all__ = ["rates"]

REPEATS = 5
MATMUL = 1024  # rows and columns


def rates(spec: Spec) -> Step:
    """Convolution: the best of the net's layers, forward, over a task's queries, in either layout. Matmul: 1024².

    Both in floating-point operations a second, float32, the fastest of REPEATS.
    """
    work = MetaStep(**{name: value for name, value in spec.work.items() if name != "kind"})

    def best(flops: int, run: Callable[[], Any]) -> float:
        run()
        seconds = []
        for _ in range(REPEATS):
            _wait(spec.device)
            began = time.perf_counter()
            run()
            _wait(spec.device)
            seconds.append(time.perf_counter() - began)
        return flops / min(seconds)

    def run() -> dict[str, float]:
        images = work.ways * work.queries
        found = []
        for layer in layers(work)[:-1]:
            for layout in ("contiguous", "channels_last"):
                side = layer.size * layer.stride
                x = to_layout(torch.rand(images, layer.inputs, side, side, device=spec.device), layout)
                w = to_layout(torch.rand(layer.outputs, layer.inputs, 3, 3, device=spec.device), layout)
                convolve = lambda x=x, w=w, stride=layer.stride: F.conv2d(x, w, None, stride, 1)  # noqa: E731
                found.append(best(images * layer.flops, convolve))
        a, b = (torch.rand(MATMUL, MATMUL, device=spec.device) for _ in range(2))
        return {"convolution": max(found), "matmul": best(2 * MATMUL**3, lambda: a @ b)}

    def result(found: dict[str, float]) -> Arrays:
        return {name: np.array(rate) for name, rate in found.items()}

    return Step(run, result)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
