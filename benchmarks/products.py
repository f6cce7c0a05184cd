"""What a transformer spends its time in, on torch's kernels and on Neo's: python -m benchmarks.products

Microseconds of a linear layer's three products and of attention's, whose heads stand side by side in memory
(neo/kernels/matrix_product.h), of GELU's derivatives (gelu.h) and of layer norm's second order (layer_norm.h), float32,
on as many threads as torch has. The two take turns; the medians of ROUNDS count: torch's / Neo's, and how many times as
fast that is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.direct import nanoseconds
from neo import kernels
from neo.kernels import direct, rows

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

ATTENTION = [  # sequences, tokens, heads, width of a head: W13's task, ViT-tiny's, BERT's of 32 tokens
    (5, 16, 4, 32),
    (25, 16, 4, 32),
    (5, 65, 3, 64),
    (25, 65, 3, 64),
    (5, 32, 12, 64),
    (25, 32, 12, 64),
]

PASSES = [(80, 128), (80, 512), (400, 512), (512, 64), (512, 256), (1625, 192)]  # rows, entries of a row

Call = Callable[[], Any]


def products(count: int, inputs: int, outputs: int) -> dict[str, Call]:
    x, y_bar = torch.randn(count, inputs), torch.randn(count, outputs)
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    return {
        "forward": lambda: direct.affine(x, weight, bias),
        "weight's gradient": lambda: direct.product(y_bar, x, True, False),
        "x's gradient": lambda: direct.product(y_bar, weight, False, False),
    }


def stacks(sequences: int, tokens: int, heads: int, width: int) -> dict[str, Call]:
    joint = torch.randn(sequences, tokens, 3, heads, width).permute(2, 0, 3, 1, 4)
    query, key, value = joint.unbind(0)
    weights, y_bar = (
        torch.rand(sequences, heads, tokens, tokens),
        torch.randn(sequences, heads, tokens, width),
    )
    return {
        "scores": lambda: direct.batch_product(query, key.mT),
        "heads": lambda: direct.batch_product(weights, value),
        "values' gradient": lambda: direct.batch_product(weights.mT, y_bar),
        "weights' gradient": lambda: direct.batch_product(y_bar, value.mT),
    }


def passes(count: int, columns: int) -> dict[str, Call]:
    a, g, x = torch.randn(3, count, columns)
    W, weight = torch.randn(2, columns)
    _, mean, scale = torch.native_layer_norm(x, (columns,), weight, None, 1e-5)
    norm = (a, W, W, g, x, weight, mean, scale, (columns,), (True, True, True))
    return {
        "GELU's gradient": lambda: rows.gelu_gradient(g, x),
        "its second derivative": lambda: rows.gelu_bend(a, g, x),
        "layer norm's second order": lambda: rows.layer_norm_second_order(*norm),
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
    table("rows, inputs, outputs", LAYERS, products)
    print()
    table("sequences, tokens, heads, width", ATTENTION, stacks)
    print()
    table("rows, entries of a row", PASSES, passes)


def table(sizes: str, cases: list[Any], calls: Callable[..., dict[str, Call]]) -> None:
    names = list(calls(*cases[0]))
    print(f"| {sizes} |", " | ".join(names), "|")
    print("|---|" + "---:|" * len(names))
    for case in cases:
        times = [compared(call) for call in calls(*case).values()]
        cells = [f"{torchs:.1f} / {own:.1f} = {torchs / own:.2f}" for torchs, own in times]
        print("|", ", ".join(map(str, case)), "|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
