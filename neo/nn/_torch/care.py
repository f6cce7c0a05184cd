"""Layers of torch.nn that keep statistics, draw, or hold their weights twice, and what a copy does in place of that."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from neo.functions.registry import raw

__all__ = ["POLICIES", "drop_nothing", "leave_flat_weights", "set_policy"]

POLICIES = ("batch", "frozen", "updated")
RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def leave_flat_weights(module: torch.nn.Module) -> None:
    """Recurrent layers keep their weights in a list too, which is filled like all other places."""
    for part in module.modules():
        if isinstance(part, torch.nn.RNNBase):
            vars(part)["_update_flat_weights"] = _nothing


def drop_nothing(module: torch.nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, _DropoutNd):
            part.p = 0.0
        elif isinstance(part, torch.nn.MultiheadAttention | torch.nn.RNNBase):
            part.dropout = 0.0


def set_policy(module: torch.nn.Module, policy: str | None, updates: bool) -> None:
    """Which statistics normalise, see neo.nn.from_torch. updates: running ones are kept Neo's way, not in place.

    Raises: ValueError for "frozen" where a batch norm keeps no running statistics.
    """
    for name, part in module.named_modules():
        if not isinstance(part, _NormBase):
            continue
        if part.running_mean is None:
            if policy == "frozen" and not isinstance(part, _InstanceNorm):
                raise ValueError(
                    f'from_torch: buffers="frozen", but {name or "the module"} ({type(part).__name__}) keeps no '
                    f'running statistics (track_running_stats=False); choose buffers="batch"'
                )
        elif policy == "batch" or (policy is None and part.training):
            part.track_running_stats = False
            part.running_mean = part.running_var = part.num_batches_tracked = None
        elif policy == "updated":
            part.training = True
            if updates:
                vars(part)["forward"] = functools.partial(_forward_and_update, part)
        else:
            part.training = False


def _forward_and_update(layer: Any, x: Any) -> Any:
    """Normalise by the statistics of the batch, and put new running statistics in the place of the old.

    r ← (1 − m) r + m s, s the mean and the unbiased variance of each channel; m = 1 / batches for momentum None.
    """
    buffers = layer._buffers
    running = {name: buffers[name] for name in RUNNING}
    buffers.update(dict.fromkeys(RUNNING))  # a layer without them normalises by the batch, and writes nothing
    try:
        y = type(layer).forward(layer, x)
    finally:
        buffers.update(running)
    instances = isinstance(layer, _InstanceNorm)
    momentum = layer.momentum or 0.0
    if not instances and running["num_batches_tracked"] is not None:
        buffers["num_batches_tracked"] = running["num_batches_tracked"] + 1
        if layer.momentum is None:
            momentum = 1.0 / float(buffers["num_batches_tracked"])
    data = raw(x).detach()
    if instances and data.ndim == layer._get_no_batch_dim():
        data = data.unsqueeze(0)
    space = tuple(range(2, data.ndim))
    if instances:
        mean, variance = data.mean(space).mean(0), data.var(space).mean(0)
    else:
        mean, variance = data.mean((0, *space)), data.var((0, *space))
    for name, now in (("running_mean", mean), ("running_var", variance)):
        buffers[name] = (1 - momentum) * running[name] + momentum * now.to(running[name].dtype)
    return y


def _nothing() -> None:
    return None
