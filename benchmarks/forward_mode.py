"""What a Hessian-vector product costs, in gradients: forward over reverse, and reverse over reverse.

    python -m benchmarks.forward_mode [--rounds 15]

One thread, processor time, the three alternating call by call; medians, and the median of the rounds' ratios. The
gradient is of the mean cross-entropy: of Neo's conv-4 on 5 images of 28x28, and of a transformer as torch has it,
through from_torch. The two products agree to 1e-4 of their largest entry in float32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor, pytree

__all__ = ["main"]


class Classifier(torch.nn.Module):
    """Four layers of width 64 on 32 words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(64, 64)
        layer = torch.nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True, activation="gelu")
        self.layers = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = torch.nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.layers(self.words(x)).mean(1))
        return found


def problems() -> dict[str, tuple[Callable[[Any], Any], Any]]:
    """Name → (loss, parameters)."""
    torch.manual_seed(0)
    images, labels = torch.rand(5, 1, 28, 28), torch.arange(5)
    words, classes = torch.randint(0, 64, (8, 32)), torch.randint(0, 5, (8,))
    found: dict[str, tuple[Callable[[Any], Any], Any]] = {}
    for pool, hidden in (("stride", 32), ("stride", 64), ("max", 32)):
        model = neo.nn.Conv4(ways=5, hidden=hidden, pool=pool)
        loss = lambda params, model=model: F.cross_entropy(model(params, images), labels)  # noqa: E731
        found[f"conv-4, {pool}, {hidden} filters"] = loss, model.init(seed=0)
    transformer, params = neo.nn.from_torch(Classifier())
    found["transformer, 4 layers"] = (lambda p: F.cross_entropy(transformer(p, words), classes)), params
    return found


def ways(loss: Callable[[Any], Any], params: Any) -> dict[str, Callable[[], Any]]:
    gradient = neo.grad(loss, argnums=0)
    vector = pytree.tree_map(lambda leaf: LiteTensor(torch.randn(leaf.shape)), params)
    return {
        "gradient": lambda: gradient(params),
        "forward over reverse": lambda: neo.jvp(gradient, (params,), (vector,))[1],
        "reverse over reverse": lambda: neo.vjp(gradient, params)[1](vector)[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| | gradient | forward over reverse | reverse over reverse |\n|---|---|---|---|")
    for name, (loss, params) in problems().items():
        candidates = ways(loss, params)
        forward, reverse = (pytree.leaves(candidates[way]()) for way in list(candidates)[1:])
        largest = max(leaf.data.abs().max().item() for leaf in reverse)
        assert all((a - b).abs().max().item() < 1e-4 * largest for a, b in zip(forward, reverse, strict=True))
        seconds: dict[str, list[float]] = {way: [] for way in candidates}
        for turn in range(rounds + 2):
            for way, run in candidates.items():
                began = time.process_time()
                for _ in range(3):
                    run()
                if turn >= 2:  # the first two warm up
                    seconds[way].append((time.process_time() - began) / 3)
        base = seconds["gradient"]
        cells = [f"{statistics.median(base) * 1e3:.2f} ms"]
        for way in list(candidates)[1:]:
            ratio = statistics.median(a / b for a, b in zip(seconds[way], base, strict=True))
            cells.append(f"{statistics.median(seconds[way]) * 1e3:.2f} ms, {ratio:.2f} gradients")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
