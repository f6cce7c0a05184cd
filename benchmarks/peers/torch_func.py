"""torch.func: grad inside grad over functional_call, one task after the other or vmapped."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.func import functional_call, grad, grad_and_value, jvp, vmap

from benchmarks import equation
from benchmarks.step import Arrays, Spec, Step
from benchmarks.torch_problem import Loss, arrays_of, load, losses, module

__all__ = ["loop", "vmapped"]

Params = dict[str, torch.Tensor]


def loop(spec: Spec) -> Step:
    """The mean over a Python loop; gradients are summed as they come, so one task's graph lives at a time."""
    loaded = load(spec)
    of_task = grad_and_value(_query_loss(spec, module(spec, loaded)))

    def run() -> tuple[Params, torch.Tensor]:
        total, loss = of_task(loaded.params, *loaded.tasks[0])
        for task in loaded.tasks[1:]:
            gradient, one = of_task(loaded.params, *task)
            total = {name: total[name] + gradient[name] for name in total}
            loss = loss + one
        return {name: gradient / len(loaded.tasks) for name, gradient in total.items()}, loss / len(
            loaded.tasks
        )

    return Step(run, _result)


def vmapped(spec: Spec) -> Step:
    """vmap over the tasks; setting: chunk, how many at once."""
    loaded = load(spec)
    chunk = None if spec.setting["chunk"] == "all" else int(spec.setting["chunk"])
    of_task = grad_and_value(_query_loss(spec, module(spec, loaded)))
    of_tasks = vmap(of_task, in_dims=(None, 0, 0, 0, 0), chunk_size=chunk)

    def run() -> tuple[Params, torch.Tensor]:
        gradients, losses = of_tasks(loaded.params, *loaded.stacked)
        return {name: gradient.mean(0) for name, gradient in gradients.items()}, losses.mean()

    return Step(run, _result)


def _query_loss(spec: Spec, model: torch.nn.Module) -> Any:
    work = spec.work
    forward = spec.setting.get("derivatives") == "forward"
    support_loss, query_loss_of = losses(
        spec, partial(equation.by_forward, jvp) if forward else partial(equation.by_reverse, grad)
    )

    def loss(params: Params, of: Loss, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return of(lambda x: functional_call(model, params, (x,)), x, y)

    def query_loss(params: Params, sx: Any, sy: Any, qx: Any, qy: Any) -> torch.Tensor:
        for _ in range(work["inner_steps"]):
            gradient = grad(loss)(params, support_loss, sx, sy)
            params = {name: param - work["inner_lr"] * gradient[name] for name, param in params.items()}
        return loss(params, query_loss_of, qx, qy)

    return query_loss


def _result(out: tuple[Params, torch.Tensor]) -> Arrays:
    return arrays_of(out[1], out[0])
