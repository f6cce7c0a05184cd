"""The 3x3 convolutions of a conv-4, kernel by kernel: python -m benchmarks.kernels

Milliseconds of one thread for a task's 75 query images, 64 channels, float32: forward, gradient of the image, gradient
of the weights. The kernels take turns; the least of ROUNDS counts, for what else the machine does only adds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from neo import kernels
from neo.kernels import convolution as own
from neo.runtime import keep_freed_memory

ROUNDS = 15
IMAGES, CHANNELS = 75, 64
LAYERS = [(1, 14), (1, 7), (1, 3), (2, 14), (2, 7), (2, 4)]  # stride, height and width of what goes in
Passes = tuple[Callable[[], Any], ...]  # forward, image, weight


def contenders(stride: int, size: int) -> dict[str, Passes]:
    geometry = ((stride, stride), (1, 1), (1, 1), False, (0, 0), 1)
    x = torch.randn(IMAGES, CHANNELS, size, size)
    w = torch.randn(CHANNELS, CHANNELS, 3, 3) / 24
    g = torch.randn_like(torch.conv2d(x, w, None, stride, 1))

    def onednn(layout: torch.memory_format) -> Passes:
        xs, ws, gs = (t.contiguous(memory_format=layout) for t in (x, w, g))

        def gradient(*mask: bool) -> Any:
            return torch.ops.aten.convolution_backward(gs, xs, ws, None, *geometry, list(mask))

        return (
            lambda: torch.conv2d(xs, ws, None, stride, 1),
            lambda: gradient(True, False, False),
            lambda: gradient(False, True, False),
        )

    def patches() -> Passes:
        """As one matrix product, forward alone; the patches count."""
        flat = w.reshape(CHANNELS, -1)
        return (lambda: flat @ torch.nn.functional.unfold(x, 3, padding=1, stride=stride),)

    def neo() -> Passes:
        xs, ws, gs = (t.contiguous(memory_format=torch.channels_last) for t in (x, w, g))
        return (
            lambda: own.convolution(xs, ws, None, geometry),
            lambda: own.input_gradient(gs, ws, (xs.shape, xs.stride()), geometry),
            lambda: own.weight_gradient(xs, gs, ws.shape, geometry),
        )

    found = {
        "torch, contiguous": onednn(torch.contiguous_format),
        "torch, channels-last": onednn(torch.channels_last),
        "patches": patches(),
    }
    if stride == 1 and torch._nnpack_available():
        found["NNPACK, F(6x6, 3x3)"] = (
            lambda: torch._nnpack_spatial_convolution(x, w, None, [1, 1], [stride, stride]),
        )
    return found | ({"neo.kernels": neo()} if kernels.available() else {})


def measure(passes: Passes) -> list[float]:
    """Milliseconds of each, once."""
    spent = []
    for run in passes:
        began = time.perf_counter()
        run()
        spent.append(1e3 * (time.perf_counter() - began))
    return spent


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    print(
        "| stride | image | kernel | forward | image's gradient | weights' gradient |\n|---|---|---|---:|---:|---:|"
    )
    for stride, size in LAYERS:
        found = contenders(stride, size)
        times = {name: [measure(passes) for passes in [found[name]]] for name in found}  # warms up
        for _ in range(ROUNDS):
            for name, passes in found.items():
                times[name].append(measure(passes))
        for name, rounds in times.items():
            best = [f"{min(column):.2f}" for column in zip(*rounds, strict=True)]
            print(f"| {stride} | {size}x{size} | {name} | {' | '.join([*best, '', ''][:3])} |")


if __name__ == "__main__":
    main()
