"""Neo, as its users write it: meta.MAML, and a training loop of value_and_grad and an optimiser."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import meta
import neo
from benchmarks import equation
from benchmarks.networks import NETWORKS
from benchmarks.step import Arrays, Spec, Step
from benchmarks.torch_problem import arrays_of, load, module
from meta import Batched, MetaGradient, Workers
from neo.typing import Params
from tasks import Batch, Task

__all__ = ["meta_step", "training", "unroll"]


def meta_step(spec: Spec) -> Step:
    """meta.meta_gradient of meta.MAML; setting: workers (none, how many tasks side by side, or batched), and capture
    (yes: neo.capture of it)."""
    work = spec.work
    loaded = load(spec)
    params = {name: neo.LiteTensor(param) for name, param in loaded.params.items()}
    sx, sy, qx, qy = loaded.stacked
    batch = Task(Batch(sx, sy), Batch(qx, qy))
    workers = spec.setting["workers"]
    rates = {"inner_lr": work["inner_lr"], "inner_steps": work["inner_steps"]}
    if work["kind"] == "meta_step":
        maml = meta.MAML(_model(work), **rates)
    else:
        model, _ = neo.nn.from_torch(module(spec, loaded))
        maml = meta.MAML(model, problem=_problem(spec), **rates)
    side_by_side = Batched() if workers == "batched" else Workers(None if workers == "none" else int(workers))

    def result(out: MetaGradient) -> Arrays:
        return arrays_of(out.loss.mean(), {name: grad.data for name, grad in out.gradient.items()})

    def step(params: Params, batch: Task) -> MetaGradient:
        return meta.meta_gradient(maml, params, batch, workers=side_by_side)

    if spec.setting.get("capture") == "yes":
        step = neo.capture(step)
        for _ in range(2):  # the recording, and the replay that is compared with the step itself
            step(params, batch)
    return Step(lambda: step(params, batch), result)


def unroll(spec: Spec) -> Step:
    """The meta-gradient of one task; setting: inner_steps, and checkpoint (no, or yes: around each inner step)."""
    work = spec.work
    loaded = load(spec)
    params = {name: neo.LiteTensor(param) for name, param in loaded.params.items()}
    sx, sy, qx, qy = loaded.tasks[0]
    model, optimizer = _model(work), neo.optim.sgd(work["inner_lr"])

    def loss(params: Params, x: torch.Tensor, y: torch.Tensor) -> Any:
        return F.cross_entropy(model(params, x), y)

    def inner_step(params: Params) -> Params:
        return optimizer.step(params, neo.grad(loss, argnums=0)(params, sx, sy), None)[0]

    step: Callable[[Params], Params] = inner_step
    if spec.setting["checkpoint"] == "yes":
        step = neo.checkpoint(inner_step)

    def query_loss(params: Params) -> Any:
        for _ in range(int(spec.setting["inner_steps"])):
            params = step(params)
        return loss(params, qx, qy)

    gradient = neo.value_and_grad(query_loss, argnums=0)

    def result(out: tuple[Any, Params]) -> Arrays:
        return arrays_of(out[0].data, {name: grad.data for name, grad in out[1].items()})

    return Step(lambda: gradient(params), result)


def training(spec: Spec) -> Step:
    """SGD over the batches in turn, on and on from turn to turn."""
    work = spec.work
    with np.load(spec.problem) as arrays:
        start = {name[7:]: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("params/")}
        x, y = (torch.from_numpy(arrays[name]).to(spec.device) for name in ("x", "y"))
    batches = list(zip(x, y, strict=True))
    model, optimizer = neo.nn.MLP(*work["sizes"]), neo.optim.sgd(work["lr"])
    gradient = neo.value_and_grad(lambda params, x, y: F.cross_entropy(model(params, x), y), argnums=0)
    params = {name: neo.LiteTensor(param, device=spec.device) for name, param in start.items()}
    state = optimizer.init(params)

    def run() -> torch.Tensor:
        nonlocal params, state
        for i in range(work["steps"]):
            loss, gradients = gradient(params, *batches[i % len(batches)])
            params, state = optimizer.step(params, gradients, state)
        return loss.data

    def result(loss: torch.Tensor) -> Arrays:
        return arrays_of(loss, {name: params[name].data.cpu() - start[name] for name in start})

    return Step(run, result)


class _Equation(meta.Regression):
    """The inner loop descends the equation's residual, the outer loop the error of the solution itself."""

    def __init__(self, residual: Callable[[Any, Any], Any]) -> None:
        self.residual = residual

    def support_loss(self, predict: Any, support: Batch) -> Any:
        return self.loss(self.residual(predict, neo.LiteTensor(support.x)), support.y)


def _problem(spec: Spec) -> meta.Problem:
    learns = NETWORKS[spec.work["network"]].learns
    if learns == "classes":
        return meta.Classification()
    if learns == "values":
        return meta.Regression()
    ways = {
        "reverse": partial(equation.by_reverse, neo.grad),
        "forward": partial(equation.by_forward, neo.jvp),
        "taylor": partial(equation.by_taylor, neo.jet),
    }
    return _Equation(ways[spec.setting["derivatives"]])


def _model(work: Any) -> neo.nn.Module:
    return neo.nn.Conv4(work["ways"], hidden=work["hidden"], pool=work["pool"])
