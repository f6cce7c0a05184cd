"""A meta-step of a net whose time is that of the calls: python -m benchmarks.small_nets

The second-order meta-gradient of experiment=maml_sinusoid: 1-40-40-1, 25 tasks of 10 points, one inner step; float32,
one thread. The contenders take turns; medians of ROUNDS, after their meta-gradients have been found to agree.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import meta
import neo
from meta.parallel import Batched, Workers
from tasks import Sinusoid

ROUNDS, LR, TASKS = 60, 0.01, 25
Gradient = dict[str, torch.Tensor]

MODEL = neo.nn.MLP(1, 40, 40, 1)
START = MODEL.init(seed=0)
BATCH = Sinusoid().sampler("train", shots=10, queries=10, seed=0).sample(0, TASKS)


def with_neo(workers: Workers) -> Callable[[], Gradient]:
    learner = meta.MAML(MODEL, inner_lr=LR, problem=meta.Regression())

    def step() -> Gradient:
        found = meta.meta_gradient(learner, START, BATCH, workers=workers)
        return {name: grad.data for name, grad in found.gradient.items()}

    return step


def network(params: Gradient, x: torch.Tensor) -> torch.Tensor:
    for i in range(3):
        x = F.linear(x if i == 0 else F.relu(x), params[f"linear{i}.weight"], params[f"linear{i}.bias"])
    return x


def with_torch() -> Gradient:
    """Double backward, one task's graph at a time."""
    params = {name: param.data.detach().requires_grad_() for name, param in START.items()}
    for task in BATCH:
        loss = F.mse_loss(network(params, task.support.x), task.support.y)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        adapted = {name: p - LR * g for (name, p), g in zip(params.items(), grads, strict=True)}
        (F.mse_loss(network(adapted, task.query.x), task.query.y) / TASKS).backward()
    return {name: param.grad for name, param in params.items() if param.grad is not None}


def with_torch_func() -> Gradient:
    """torch.func, tasks batched by its vmap."""

    def loss(params: Gradient, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(network(params, x), y)

    def task_loss(params: Gradient, sx: Any, sy: Any, qx: Any, qy: Any) -> torch.Tensor:
        grads = torch.func.grad(loss)(params, sx, sy)
        return loss({name: p - LR * grads[name] for name, p in params.items()}, qx, qy)

    def mean_loss(params: Gradient) -> torch.Tensor:
        s, q = BATCH.support, BATCH.query
        return torch.func.vmap(task_loss, in_dims=(None, 0, 0, 0, 0))(params, s.x, s.y, q.x, q.y).mean()

    return torch.func.grad(mean_loss)({name: param.data for name, param in START.items()})


def with_learn2learn() -> Callable[[], Gradient]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import learn2learn
    layers = [torch.nn.Linear(*sizes) for sizes in ((1, 40), (40, 40), (40, 1))]
    for i, layer in enumerate(layers):
        layer.load_state_dict({key: START[f"linear{i}.{key}"].data for key in ("weight", "bias")})
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    maml = learn2learn.algorithms.MAML(model, lr=LR)

    def run() -> Gradient:
        model.zero_grad(set_to_none=True)
        for task in BATCH:
            learner = maml.clone()
            learner.adapt(F.mse_loss(learner(task.support.x), task.support.y))
            (F.mse_loss(learner(task.query.x), task.query.y) / TASKS).backward()
        return {
            f"linear{i}.{key}": param.grad
            for i, layer in enumerate(layers)
            for key, param in layer.named_parameters()
            if param.grad is not None
        }

    return run


def main() -> None:
    torch.set_num_threads(1)
    contenders: dict[str, Callable[[], Gradient]] = {
        "Neo, batched=true": with_neo(Batched(1)),
        "Neo, workers=1": with_neo(Workers(1)),
        "PyTorch, task by task": with_torch,
        "torch.func.vmap": with_torch_func,
    }
    try:
        contenders["learn2learn"] = with_learn2learn()
    except ImportError:
        print("learn2learn is not installed; make peers builds it\n")
    expected = with_torch()
    for run in contenders.values():
        torch.testing.assert_close(run(), expected, rtol=1e-4, atol=1e-6)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - began))
    first = times["Neo, batched=true"]
    print("|  | a meta-step | × Neo batched |")
    print("|---|---:|---:|")
    for name, spent in times.items():
        ratio = statistics.median(t / own for t, own in zip(spent, first, strict=True))
        print(f"| {name} | {statistics.median(spent):.1f} ms | {ratio:.2f} |")


if __name__ == "__main__":
    main()
