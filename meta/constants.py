"""What a model has and never learns, which a checkpoint does not hold: frozen weights, running statistics of a file."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from neo.nn import Frozen, TorchModel

__all__ = ["checksum_of_constants", "constants_of"]


def constants_of(model: Any) -> dict[str, torch.Tensor]:
    """What is frozen in a model, or given to it by a file as a constant, whatever is wrapped around it.

    Buffers that a module makes for itself are a function of its code, and not among them.
    """
    found: dict[str, torch.Tensor] = {}
    while model is not None:
        if isinstance(model, Frozen):
            found |= model.constants
        elif isinstance(model, TorchModel) and getattr(model, "pretrained", False):
            found |= model.state
        model = getattr(model, "model", None)
    return found


def checksum_of_constants(model: Any) -> str | None:
    """SHA-256 of constants_of(model): names, dtypes, shapes and numbers; None where there are none."""
    found = constants_of(model)
    if not found:
        return None
    digest = hashlib.sha256()
    for name in sorted(found):
        tensor = found[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
