"""learn2learn 0.2.0, as in its own examples: clone and adapt, and a Taskset with the transforms of its benchmark."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.step import Arrays, NotInstalled, Spec, Step
from benchmarks.torch_problem import arrays_of, load, losses, module

__all__ = ["draw_summary", "draws", "draws_in_memory", "meta_step"]


def meta_step(spec: Spec) -> Step:
    """One clone a task, whose query loss is backpropagated at once, so that one task's graph lives at a time."""
    learn2learn = _import()
    work, loaded = spec.work, load(spec)
    model = module(spec, loaded)
    support_loss, query_loss = losses(spec)
    maml = learn2learn.algorithms.MAML(model, lr=work["inner_lr"], first_order=False)

    def run() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        losses = []
        for sx, sy, qx, qy in loaded.tasks:
            learner = maml.clone()
            for _ in range(work["inner_steps"]):
                learner.adapt(support_loss(learner, sx, sy))
            loss = query_loss(learner, qx, qy) / len(loaded.tasks)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def result(loss: torch.Tensor) -> Arrays:
        return arrays_of(loss, {name: param.grad for name, param in model.named_parameters()})

    return Step(run, result)


class _Images(torch.utils.data.Dataset):
    """(image (1, 28, 28) float32 in [0, 1], class) pairs held in memory."""

    def __init__(self, images: torch.Tensor) -> None:  # (classes, drawings, height, width) uint8
        self.x = images.flatten(0, 1).unsqueeze(1).to(torch.float32) / 255
        self.y = torch.arange(len(images)).repeat_interleave(images.shape[1]).tolist()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.x[index], self.y[index]


def draws(spec: Spec) -> Step:
    """Tasks of shots + queries images a class, parted as the examples do, by the transforms of its Omniglot benchmark.

    Its RandomClassRotation turns each image as it is drawn.
    """
    return _draws(spec, rotate=True)


def draws_in_memory(spec: Spec) -> Step:
    """The same without RandomClassRotation: turned classes are held as classes of their own, as Neo has them.

    Not how learn2learn is used, but how fast its Taskset can be.
    """
    return _draws(spec, rotate=False)


def _draws(spec: Spec, rotate: bool) -> Step:
    learn2learn = _import()
    work = spec.work
    with np.load(spec.problem) as arrays:
        images = torch.from_numpy(arrays["images"]).to(spec.device)
    if not rotate:
        images = torch.cat([torch.rot90(images, turn, dims=(-2, -1)) for turn in range(4)])
    dataset = learn2learn.data.MetaDataset(_Images(images))
    transforms: list[Any] = [
        learn2learn.data.transforms.FusedNWaysKShots(
            dataset, n=work["ways"], k=work["shots"] + work["queries"]
        ),
        learn2learn.data.transforms.LoadData(dataset),
        learn2learn.data.transforms.RemapLabels(dataset),
        learn2learn.data.transforms.ConsecutiveLabels(dataset),
    ]
    if rotate:
        degrees = [0.0, 90.0, 180.0, 270.0]
        transforms.append(learn2learn.vision.transforms.RandomClassRotation(dataset, degrees))
    taskset = learn2learn.data.Taskset(dataset, task_transforms=transforms)
    each = work["shots"] + work["queries"]
    support = torch.zeros(work["ways"] * each, dtype=torch.bool, device=spec.device)
    for shot in range(work["shots"]):
        support[torch.arange(work["ways"], device=spec.device) * each + shot] = True

    def run() -> list[tuple[torch.Tensor, ...]]:
        drawn: list[tuple[torch.Tensor, ...]] = []
        for _ in range(work["tasks"]):
            x, y = taskset.sample()
            y = y.to(x.device)
            drawn.append((x[support], y[support], x[~support], y[~support]))
        return drawn

    def result(drawn: list[tuple[torch.Tensor, ...]]) -> Arrays:
        sx, sy, qx, qy = (torch.stack(part) for part in zip(*drawn, strict=True))
        return draw_summary(sx, sy, qx, qy)

    return Step(run, result)


def draw_summary(sx: torch.Tensor, sy: torch.Tensor, qx: torch.Tensor, qy: torch.Tensor) -> Arrays:
    """What two samplers must agree in though they draw different tasks: shapes, and how often each label comes."""
    return {
        "support_shape": np.array(sx.shape),
        "query_shape": np.array(qx.shape),
        "support_labels": np.bincount(sy.cpu().reshape(-1)),
        "query_labels": np.bincount(qy.cpu().reshape(-1)),
    }


def _import() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gym and learn2learn use what newer libraries deprecate
            import learn2learn
    except ImportError as error:
        raise NotInstalled(f"learn2learn 0.2.0 is not installed ({error}); run make peers") from None
    return learn2learn
