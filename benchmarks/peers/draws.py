"""Neo's sampler: a meta-batch as one gather."""

from __future__ import annotations

import numpy as np
import torch

import tasks
from benchmarks.peers.learn2learn import draw_summary
from benchmarks.step import Arrays, Spec, Step

__all__ = ["neo_sampler"]


def neo_sampler(spec: Spec) -> Step:
    """A new iteration's tasks at every turn."""
    work = spec.work
    with np.load(spec.problem) as arrays:
        images = torch.from_numpy(arrays["images"])
    everyone = {"train": range(len(images))}
    dataset = tasks.CharacterSet(
        "bench", "all", images, [str(number) for number in everyone["train"]], everyone, "memory"
    )
    protocol = {name: work[name] for name in ("ways", "shots", "queries")}
    sampler = tasks.EpisodeSampler(dataset, "train", **protocol, seed=0, device=spec.device)
    iteration = -1

    def run() -> tasks.Task:
        nonlocal iteration
        iteration += 1
        return sampler.sample(iteration, work["tasks"])

    def result(task: tasks.Task) -> Arrays:
        return draw_summary(task.support.x, task.support.y, task.query.x, task.query.y)

    return Step(run, result)
