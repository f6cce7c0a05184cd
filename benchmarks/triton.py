"""Triton's softmax and matrix product against torch's, on a GPU: python -m benchmarks.triton

Microseconds of a call, float32 and bfloat16: forward, and its gradient (of a product, the products for both factors);
called from Python one by one, and captured, that is replayed from a CUDA graph as neo.capture does, where Python's part
is gone. torch and Triton take turns, and the median of ROUNDS counts. The errors are those against float64, relative to
its largest entry; they are looked at before anything is timed.

quick=true tries the plumbing on toy sizes; without a GPU in Triton's interpreter, and it
times nothing there.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from neo.kernels import dense, triton_kernels

ROUNDS = 15
CALLS = 20  # in a row, between two looks at the clock
LARGEST_ERROR = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SIZES = {  # rows x columns, and m x k x n: of few-shot classifiers, a perceptron, attention, large models
    "softmax": ["80x5", "400x20", "4096x64", "4096x1024", "4096x8192"],
    "matmul": ["75x64x5", "64x784x256", "512x512x512", "1024x64x1024", "2048x2048x2048", "4096x4096x4096"],
}
TIMES = ["torch", "Triton", "torch, captured", "Triton, captured"]  # µs
TOY = {"softmax": ["3x5"], "matmul": ["5x4x3"]}

Run = Callable[[], Any]


class Kernels(NamedTuple):
    """One of the two sides: what dense.py holds while the switch is closed, or open."""

    product: Callable[..., torch.Tensor]
    softmax: Callable[..., torch.Tensor]
    softmax_gradient: Callable[..., torch.Tensor]


def held() -> Kernels:
    return Kernels(dense.product, dense.softmax, dense.softmax_gradient)


def passes(kernels: Kernels, op: str, tensors: tuple[torch.Tensor, ...]) -> dict[str, Run]:
    if op == "softmax":
        x, g = tensors
        y = torch.softmax(x, -1)
        return {
            "forward": lambda: kernels.softmax(x, 1, False),
            "gradient": lambda: kernels.softmax_gradient(g, y, 1, g.dtype),
        }
    a, b, c_bar = tensors
    return {
        "forward": lambda: kernels.product(a, b, False, False),
        "gradient": lambda: (
            kernels.product(c_bar, b, False, True),
            kernels.product(a, c_bar, True, False),
        ),
    }


def draw(op: str, size: str, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, ...]:
    """x and ȳ, or a, b and c̄."""
    generator = torch.Generator().manual_seed(0)
    m, k, *n = map(int, size.split("x"))
    shapes = [(m, k), (k, *n), (m, *n)] if op == "matmul" else [(m, k), (m, k)]
    return tuple(torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)


def error(found: Any, exact: Any) -> float:
    """The largest difference, relative to the largest entry of what is exact."""
    pairs = zip(found, exact, strict=True) if isinstance(found, tuple) else [(found, exact)]
    return max(float((got.double() - right).abs().max() / right.abs().max()) for got, right in pairs)


def microseconds(run: Run) -> float:
    """Of one call of CALLS in a row."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(CALLS):
        run()
    ended.record()
    ended.synchronize()
    return 1e3 * began.elapsed_time(ended) / CALLS


def captured(run: Run) -> Run:
    """`run` as a CUDA graph; it has run before, so that its kernels are chosen and compiled."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def medians(torchs: Run, tritons: Run) -> list[float]:
    """Microseconds of torch's and Triton's, called and captured: TIMES."""
    runs = [torchs, tritons, captured(torchs), captured(tritons)]
    rounds = [[microseconds(run) for run in runs] for _ in range(ROUNDS + 1)][1:]  # the first warms up
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def preferred(torchs: float, tritons: float, torchs_captured: float, tritons_captured: float) -> str:
    """Whose kernels, by the four times of `medians`; where it depends, when Triton's."""
    called, captured = tritons < torchs, tritons_captured < torchs_captured
    if called is captured:
        return "Triton" if called else "torch"
    return "Triton if called" if called else "Triton if captured"


def rows(sizes: dict[str, list[str]], dtypes: list[torch.dtype], device: str) -> Iterator[list[str]]:
    """The table's, each after its numbers have been compared with float64's."""
    torchs = held()
    with triton_kernels():
        tritons = held()
    cases = [(op, size, dtype) for op, names in sizes.items() for size in names for dtype in dtypes]
    for op, size, dtype in cases:
        tensors = draw(op, size, dtype, device)
        exact = passes(torchs, op, tuple(t.double() for t in tensors))
        sides = [passes(kernels, op, tensors) for kernels in (torchs, tritons)]
        for name in exact:
            runs = [side[name] for side in sides]
            errors = [error(run(), exact[name]()) for run in runs]
            if not max(errors) <= LARGEST_ERROR[dtype]:
                sys.exit(f"triton: {name} of {op} {size} {dtype}: errors of torch and Triton {errors}")
            times = medians(*runs) if device == "cuda" else []
            yield [
                op, size, str(dtype).removeprefix("torch."), name,
                *([f"{time:.1f}" for time in times] or [""] * 4), *(f"{e:.0e}" for e in errors),
                preferred(*times) if times else "",
            ]  # fmt: skip


def main(arguments: list[str]) -> None:
    if set(arguments) - {"quick=true"}:
        sys.exit(f"triton: expected nothing, or quick=true; got {' '.join(arguments)}")
    quick, gpu = bool(arguments), torch.cuda.is_available()
    if not gpu and not quick:
        sys.exit("triton: needs an NVIDIA GPU, and torch sees none; quick=true tries it without one")
    if not gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    sizes, dtypes = TOY if quick else SIZES, list(LARGEST_ERROR) if gpu else [torch.float32]
    head = ["op", "size", "dtype", "pass", *TIMES, "torch's error", "Triton's error", "prefer"]
    print(f"| {' | '.join(head)} |\n|{'---|' * 4}{'---:|' * 6}---|")
    for row in rows(sizes, dtypes, "cuda" if gpu else "cpu"):
        print(f"| {' | '.join(row)} |", flush=True)
    name = torch.cuda.get_device_name() if gpu else "No GPU: it runs, and nothing was timed"
    print(f"\n{name}; torch {torch.__version__}.")


if __name__ == "__main__":
    main(sys.argv[1:])
