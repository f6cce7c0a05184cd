"""PyTorch alone: double backward written out, and the eager training loop."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.conv4 import functional_conv4
from benchmarks.step import Arrays, Spec, Step
from benchmarks.torch_problem import DOWNSAMPLE, Loaded, arrays_of, load, losses, module

__all__ = ["meta_step", "training"]

Params = dict[str, torch.Tensor]


def meta_step(spec: Spec) -> Step:
    """autograd.grad with create_graph in the inner loop, backward outside; one task's graph lives at a time."""
    work, loaded = spec.work, load(spec)
    forward = _forward(spec, loaded)
    support_loss, query_loss = losses(spec)
    params = {name: param.requires_grad_() for name, param in loaded.params.items()}

    def run() -> torch.Tensor:
        for param in params.values():
            param.grad = None
        losses = []
        for sx, sy, qx, qy in loaded.tasks:
            adapted = params
            for _ in range(work["inner_steps"]):
                loss = support_loss(forward(adapted), sx, sy)
                grads = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
                adapted = {
                    name: param - work["inner_lr"] * grad
                    for (name, param), grad in zip(adapted.items(), grads, strict=True)
                }
            loss = query_loss(forward(adapted), qx, qy) / len(loaded.tasks)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def result(loss: torch.Tensor) -> Arrays:
        return arrays_of(loss, {name: param.grad for name, param in params.items()})

    return Step(run, result)


def _forward(spec: Spec, loaded: Loaded) -> Callable[[Params], Callable[[torch.Tensor], torch.Tensor]]:
    """Parameters → the network with them, a function of x."""
    if spec.work["kind"] == "meta_step":
        downsample = DOWNSAMPLE[spec.work["pool"]]
        return lambda params: lambda x: functional_conv4(params, x, downsample)
    model = module(spec, loaded)
    return lambda params: lambda x: torch.func.functional_call(model, params, (x,))


def training(spec: Spec) -> Step:
    """torch.nn and torch.optim.SGD; setting: sgd (loop, foreach or fused)."""
    work = spec.work
    with np.load(spec.problem) as arrays:
        start = {name[7:]: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("params/")}
        x, y = (torch.from_numpy(arrays[name]).to(spec.device) for name in ("x", "y"))
    batches = list(zip(x, y, strict=True))
    layers: list[torch.nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(work["sizes"])):
        layer = torch.nn.Linear(inputs, outputs)
        layer.load_state_dict({"weight": start[f"linear{i}.weight"], "bias": start[f"linear{i}.bias"]})
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).to(spec.device)
    kind = spec.setting["sgd"]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=work["lr"], foreach=kind == "foreach", fused=kind == "fused"
    )

    def run() -> torch.Tensor:
        for i in range(work["steps"]):
            x, y = batches[i % len(batches)]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        return loss.detach()

    def result(loss: torch.Tensor) -> Arrays:
        params = [param.detach().cpu() for param in model.parameters()]
        return arrays_of(loss, {name: param - start[name] for name, param in zip(start, params, strict=True)})

    return Step(run, result)
