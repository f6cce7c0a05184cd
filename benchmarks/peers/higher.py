"""higher 0.2.1, as in its own MAML example: innerloop_ctx and a differentiable optimiser."""

from __future__ import annotations

import torch

from benchmarks.step import Arrays, NotInstalled, Spec, Step
from benchmarks.torch_problem import arrays_of, load, losses, module

__all__ = ["meta_step"]


def meta_step(spec: Spec) -> Step:
    try:
        import higher
    except ImportError as error:
        raise NotInstalled(f"higher 0.2.1 is not installed ({error}); make bench installs it") from None
    work, loaded = spec.work, load(spec)
    model = module(spec, loaded)
    support_loss, query_loss = losses(spec)
    optimizer = torch.optim.SGD(model.parameters(), lr=work["inner_lr"])

    def run() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        losses = []
        for sx, sy, qx, qy in loaded.tasks:
            with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (learner, steps):
                for _ in range(work["inner_steps"]):
                    steps.step(support_loss(learner, sx, sy))
                loss = query_loss(learner, qx, qy) / len(loaded.tasks)
                loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def result(loss: torch.Tensor) -> Arrays:
        return arrays_of(loss, {name: param.grad for name, param in model.named_parameters()})

    return Step(run, result)
