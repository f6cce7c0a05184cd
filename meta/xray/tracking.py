"""X-rays while a run trains: a few numbers for its log."""

from __future__ import annotations

import math

import torch

from meta.learner import MetaLearner
from meta.meta_batch import MetaBatch
from meta.parallel import Workers
from meta.xray.measure import NothingFinite, XRay, xray
from neo import pytree
from neo.typing import PyTree
from tasks import Task

__all__ = ["track", "tracked_metrics"]


def track(
    learner: MetaLearner,
    params: PyTree,
    tasks: Task,
    *,
    iteration: int,
    seed: int,
    state: PyTree,
    workers: Workers | None = None,
) -> dict[str, float]:
    """tracked_metrics() of the meta-gradient on a meta-batch: what training takes, were it exact, and what first order
    would make of it. NaN where no task has a finite one.

    Args: as meta.meta_gradient has them.
    Raises: ValueError for a learner without an inner loop.
    Cost: an exact and a first-order meta-gradient a task.
    """
    batch = MetaBatch(learner, state, seed=seed)
    steps = [batch.step(iteration, slot, state) for slot in range(len(tasks))]
    device = pytree.leaves(params)[0].device
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(
            cuda
        ):  # a run's own draws from torch's generators go on as if nothing had been
            found = xray(
                learner, params, zip(steps, tasks, strict=True), state=state, parts=1, workers=workers
            )
    except NothingFinite:
        return {"first_order_cosine": math.nan, "curvature_share": math.nan}
    return tracked_metrics(found)


def tracked_metrics(found: XRay) -> dict[str, float]:
    """What a log has of an X-ray: first_order_cosine and curvature_share, of all and by layer.

    Layers without a gradient are left out.
    """
    layers = [i for i in range(len(found.layers)) if found.has_gradient(i)]
    numbers = {
        "first_order_cosine": lambda layer: found.cosine(found.first_order, layer).mean,
        "curvature_share": lambda layer: found.share(found.curvature, layer),
    }
    return {name: of(None) for name, of in numbers.items()} | {
        f"{name}/{found.layers[layer]}": of(layer) for name, of in numbers.items() for layer in layers
    }
