"""How far apart rounding drives meta-gradients: python -m benchmarks.rounding

Relative differences of the fused and the plain Conv4, 5-way 1-shot, 15 queries, 4 generated tasks a seed; "exact" is
the plain network in float64.
"""

from __future__ import annotations

import torch

import meta
import neo
from benchmarks.agreement import relative_difference
from tasks import Batch, Glyphs, Task

SEEDS, TASKS = 4, 4


def meta_gradient(
    pool: str, seed: int, batch: Task, dtype: torch.dtype, fused: bool
) -> dict[str, torch.Tensor]:
    model = neo.nn.Conv4(5, pool=pool, fused=fused)
    params = {name: neo.LiteTensor(p.data.to(dtype)) for name, p in model.init(seed).items()}
    support, query = (Batch(part.x.to(dtype), part.y) for part in (batch.support, batch.query))
    cast = Task(support, query)
    found = meta.meta_gradient(meta.MAML(model, inner_lr=0.4), params, cast, workers=meta.Workers(1)).gradient
    return {name: gradient.data for name, gradient in found.items()}


def main() -> None:
    print("| pool | seed | float64: fused − plain | float32: fused − plain | fused − exact | plain − exact |")
    print("|---|---|---:|---:|---:|---:|")
    for pool in ("stride", "max"):
        for seed in range(SEEDS):
            batch = Glyphs().sampler("train", ways=5, shots=1, queries=15, seed=seed).sample(0, TASKS)
            exact, exact_fused, plain, fused = (
                meta_gradient(pool, seed, batch, dtype, fused)
                for dtype in (torch.float64, torch.float32)
                for fused in (False, True)
            )
            pairs = (exact_fused, exact), (fused, plain), (fused, exact), (plain, exact)
            print(f"| {pool} | {seed} | {' | '.join(f'{relative_difference(a, b):.0e}' for a, b in pairs)} |")


if __name__ == "__main__":
    main()
