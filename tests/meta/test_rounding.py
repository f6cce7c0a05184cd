"""The fused, threaded meta-gradient in float32 against the plain one on one thread.

Their sums round apart, and a ReLU or a maximum that hangs on the last digits may turn over: then a meta-gradient jumps,
whatever computes it (docs/benchmarks.md). So the tasks compared here are those on which nothing hangs: in float64 each
decision, before and after the inner step, has a margin well above float32's rounding. All others are left out by
that margin, not by the outcome.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import meta
import neo
from meta.parallel import Workers
from neo.typing import Params
from tasks import Batch, Task
from tests.peers.torch_reference import relative_difference

MARGIN = 1e-5  # of values of unit variance; float32 rounds them by some 1e-6
SEEDS = range(16)
LR = 0.4


def margin(model: neo.nn.Conv4, params: Params, x: torch.Tensor) -> float:
    """By how much the closest decision of a plain Conv4 was taken: the sign of a value that a ReLU sees, where pooling
    does not hide it, or which pixel of a window is the largest."""
    closest = torch.inf
    pooled = any("pool" in name for name, _ in model.layers)
    h = neo.LiteTensor(x)
    for (name, _), (layer, local) in zip(model.layers, model.split(params), strict=True):
        if name.startswith("relu"):
            values = h.data
            if pooled:
                windows = F.unfold(values.flatten(0, 1).unsqueeze(1), 2, stride=2)  # (planes, 4, windows)
                values, second = windows.topk(2, dim=1).values.unbind(1)
                closest = min(closest, float((values - second)[values > 0].min()))
            closest = min(closest, float(values.abs().min()))
        h = layer(local, h)
    return closest


def noise(seed: int) -> Task:
    """Two tasks of 3 classes, one and two images each: noise, for in the flat parts of drawings pixels are tied."""
    draw = torch.Generator().manual_seed(seed)
    support, query = (Batch(torch.randn(2, 3 * n, 1, 14, 14, generator=draw), labels(n)) for n in (1, 2))
    return Task(support, query)


def labels(shots: int) -> torch.Tensor:
    return torch.arange(3).repeat_interleave(shots).expand(2, -1)


def cast(task: Task, dtype: torch.dtype) -> Task:
    return Task(*(Batch(part.x.to(dtype), part.y) for part in (task.support, task.query)))


def safe(model: neo.nn.Conv4, params: Params, batch: Task) -> bool:
    """Whether no decision on any of these tasks is a close one."""
    inner = neo.grad(lambda p, x, y: F.cross_entropy(model(p, x), y), argnums=0)
    for task in batch:
        adapted = {
            name: params[name] - LR * g for name, g in inner(params, task.support.x, task.support.y).items()
        }
        if margin(model, params, task.support.x) < MARGIN or margin(model, adapted, task.query.x) < MARGIN:
            return False
    return True


@pytest.mark.parametrize("pool", ["stride", "max"])
def test_fused_and_plain_agree_where_no_decision_is_close(pool: str) -> None:
    plain, fused = (
        neo.nn.Conv4(3, hidden=16, pool=pool, fused=fused, size=14, blocks=2) for fused in (False, True)
    )
    compared = 0
    for seed in SEEDS:
        tasks = noise(seed)
        exact = cast(tasks, torch.float64)
        params = plain.init(seed, dtype=torch.float64)
        if not safe(plain, params, exact):
            continue
        compared += 1
        params, batch = plain.init(seed), cast(tasks, torch.float32)
        expected, found = (
            meta.meta_gradient(meta.MAML(model, inner_lr=LR), params, batch, workers=Workers(count)).gradient
            for model, count in ((plain, 1), (fused, 2))
        )
        assert relative_difference(*({n: g.data for n, g in of.items()} for of in (found, expected))) < 1e-5
    assert compared >= len(SEEDS) // 4, "too few tasks without a close decision: this would say nothing"
