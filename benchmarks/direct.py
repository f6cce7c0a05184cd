"""Torch's small functions and the short way to them: python -m benchmarks.direct

Nanoseconds a call on one thread, float32, torch's own against neo.kernels.direct, by number of entries. The two take
turns; the least of ROUNDS counts, for what else the machine does only adds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from neo.kernels import direct

ROUNDS, CALLS = 25, 400
SIZES = (8, 128, 1024, 8192)


def pairs(entries: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Name → torch's call, the direct one."""
    x, y = torch.rand(entries), torch.rand(entries)
    rows = torch.rand(entries // 8, 8)
    square, bias = torch.rand(8, 8), torch.rand(8)
    backward = torch.ops.aten.tanh_backward.default
    target = torch.arange(len(rows)) % 8
    return {
        "x * y": (lambda: x * y, lambda: direct.mul(x, y)),
        "x * 0.5": (lambda: x * 0.5, lambda: direct.mul(x, 0.5)),
        "relu": (lambda: torch.relu(x), lambda: direct.relu(x)),
        "tanh": (lambda: torch.tanh(x), lambda: direct.tanh(x)),
        "tanh's gradient": (lambda: backward(x, y), lambda: direct.tanh_gradient(x, y)),
        "linear, 8 to 8": (
            lambda: torch.addmm(bias, rows, square.t()),
            lambda: direct.affine(rows, square, bias),
        ),
        "sum of rows of 8": (lambda: rows.sum(0), lambda: direct.sum_of_rows(rows)),
        "cross-entropy of 8 classes": (
            lambda: torch.nn.functional.cross_entropy(rows, target),
            lambda: direct.cross_entropy(rows, target, 1, -100),
        ),
    }


def nanoseconds(call: Callable[[], Any], calls: int = CALLS) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return 1e9 * (time.perf_counter() - began) / calls


def main() -> None:
    if direct.look is None:
        raise SystemExit("neo.kernels._direct is not built for this torch; make env builds it")
    torch.set_num_threads(1)
    best: dict[tuple[str, int], list[float]] = {}
    for entries in SIZES:
        for name, calls in pairs(entries).items():
            turns = [[nanoseconds(call) for call in calls] for _ in range(ROUNDS)]
            best[name, entries] = [min(turn[i] for turn in turns) for i in (0, 1)]
    print("|  |", " | ".join(f"{entries} entries" for entries in SIZES), "|")
    print("|---|" + "---:|" * len(SIZES))
    for name in pairs(8):
        cells = ["{:.0f} / {:.0f}".format(*best[name, entries]) for entries in SIZES]
        print("|", name, "|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
