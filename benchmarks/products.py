"""Products of matrices: torch's and Neo's (neo/kernels/matrix_product.h): python -m benchmarks.products

Microseconds of a linear layer's three products, float32, on as many threads as torch has. The two take turns; the
medians of ROUNDS count: torch's / Neo's, and how many times as fast that is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.direct import nanoseconds
from neo import kernels
from neo.kernels import direct

ROUNDS = 15
SECONDS = 0.01  # of calls in a row, between two looks at the clock
LAYERS = [  # rows, inputs, outputs: inner loops of sinusoids and of heads, the perceptron's layers, larger ones
    (10, 40, 40),
    (75, 64, 5),
    (64, 784, 256),
    (64, 256, 64),
    (64, 64, 10),
    (64, 1024, 1024),
    (256, 512, 512),
    (1024, 512, 512),
    (1024, 1024, 1024),
    (4096, 64, 64),
]

Call = Callable[[], Any]


def products(rows: int, inputs: int, outputs: int) -> dict[str, Call]:
    x, y_bar = torch.randn(rows, inputs), torch.randn(rows, outputs)
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    return {
        "forward": lambda: direct.affine(x, weight, bias),
        "weight's gradient": lambda: direct.product(y_bar, x, True, False),
        "x's gradient": lambda: direct.product(y_bar, weight, False, False),
    }


def compared(call: Call) -> tuple[float, float]:
    """Microseconds of the call on torch's kernels and on Neo's."""
    calls = max(1, int(SECONDS / (1e-9 * nanoseconds(call, 3))))
    torchs: list[float] = []
    own: list[float] = []
    for _ in range(ROUNDS):
        with kernels.switched_off():
            torchs.append(nanoseconds(call, calls) / 1e3)
        own.append(nanoseconds(call, calls) / 1e3)
    return statistics.median(torchs), statistics.median(own)


def main() -> None:
    if not kernels.own_products():
        raise SystemExit("products are on torch's kernels here; neo/kernels/__init__.py says why")
    names = list(products(1, 1, 1))
    print("| rows, inputs, outputs |", " | ".join(names), "|")
    print("|---|" + "---:|" * len(names))
    for layer in LAYERS:
        times = [compared(call) for call in products(*layer).values()]
        cells = [f"{torchs:.1f} / {own:.1f} = {torchs / own:.2f}" for torchs, own in times]
        print("|", ", ".join(map(str, layer)), "|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
