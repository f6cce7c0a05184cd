"""The problem as torch tensors, in the memory layout of the setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import equation, networks
from benchmarks.conv4 import Downsample, conv4_like
from benchmarks.step import Arrays, Spec

__all__ = ["DOWNSAMPLE", "Loaded", "Loss", "Task", "arrays_of", "load", "losses", "module", "to_layout"]

DOWNSAMPLE: dict[str, Downsample] = {"stride": "stride", "max": "max_pool"}  # a work's word → Conv4's
Loss = Callable[[Callable[[Any], Any], torch.Tensor, torch.Tensor], torch.Tensor]  # of predict, x, y
Task = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # support x, y, query x, y


class Loaded(NamedTuple):
    params: dict[str, torch.Tensor]
    stacked: Task  # with the leading axis meta_batch
    tasks: list[Task]


def load(spec: Spec) -> Loaded:
    """Weights and tasks on the spec's device; float64 where its setting says so."""
    layout = spec.setting.get("layout", "contiguous")
    dtype = getattr(torch, spec.setting.get("dtype", "float32"))

    def tensor(array: np.ndarray) -> torch.Tensor:
        value = torch.from_numpy(array).to(spec.device, dtype if array.dtype.kind == "f" else None)
        return to_layout(value, layout) if value.ndim >= 4 else value

    with np.load(spec.problem) as arrays:
        params = {
            name.removeprefix("params/"): tensor(arrays[name])
            for name in arrays
            if name.startswith("params/")
        }
        sx, sy, qx, qy = (tensor(arrays[name]) for name in ("support_x", "support_y", "query_x", "query_y"))
    tasks = [(sx[i], sy[i], qx[i], qy[i]) for i in range(len(sy))]
    return Loaded(params, (sx, sy, qx, qy), tasks)


def to_layout(x: torch.Tensor, layout: str) -> torch.Tensor:
    """(..., channels, height, width) in the memory order of layout: contiguous, or channels_last.

    The strides are forced: those of a single channel are ambiguous, and torch then takes them for contiguous ones.
    """
    if layout == "contiguous":
        return x.contiguous()
    *lead, channels, _, width = x.shape
    strides: tuple[int, ...] = (1, width * channels, channels)
    for i in range(len(lead) - 1, -1, -1):
        strides = (math.prod(x.shape[i + 1 :]), *strides)
    return x.movedim(-3, -1).contiguous().view(-1).as_strided(x.shape, strides)


def arrays_of(loss: torch.Tensor, gradient: Mapping[str, torch.Tensor | None]) -> Arrays:
    """Loss and gradient as what the contenders are compared by; a missing gradient stays missing, and is found out."""
    found = {"loss": loss, **gradient}
    return {name: value.detach().cpu().numpy() for name, value in found.items() if value is not None}


def module(spec: Spec, loaded: Loaded) -> torch.nn.Module:
    """The work's network as a torch module with the problem's weights, in the memory layout of the setting."""
    if spec.work["kind"] == "meta_module":
        model = networks.build(spec.work).to(loaded.stacked[0])  # dtype and device
        model.load_state_dict(loaded.params)
    else:
        model = conv4_like(loaded.params, loaded.stacked[0].shape[-1], DOWNSAMPLE[spec.work["pool"]], "mean")
    if spec.setting.get("layout") == "channels_last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return model


def losses(
    spec: Spec, residual: Callable[[Any, torch.Tensor], torch.Tensor] = equation.by_autograd
) -> tuple[Loss, Loss]:
    """What the inner loop descends, and the outer: (predict, x, y) → a scalar; residual: for works with an equation."""
    learns = networks.NETWORKS[spec.work["network"]].learns if "network" in spec.work else "classes"
    if learns == "classes":
        return _cross_entropy, _cross_entropy
    if learns == "equation":
        return lambda predict, x, y: F.mse_loss(residual(predict, x), y), _mean_squared_error
    return _mean_squared_error, _mean_squared_error


def _cross_entropy(predict: Callable[[Any], Any], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(predict(x), y)


def _mean_squared_error(predict: Callable[[Any], Any], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(predict(x), y)
