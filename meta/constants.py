"""What a model has and never learns, which a checkpoint does not hold: frozen weights, running statistics of a file."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from neo.nn import Frozen, TorchModel

__all__ = ["checksum_of_constants"]


def checksum_of_constants(model: Any) -> str | None:
    """SHA-256 of a model's constants, whatever is wrapped around it: names, dtypes, shapes and numbers.

    None where it has none that are frozen or given. Buffers that a module makes for itself are a function of its code.
    """
    found: dict[str, torch.Tensor] = {}
    while model is not None:
        if isinstance(model, Frozen):
            found |= model.constants
        elif isinstance(model, TorchModel) and getattr(model, "pretrained", False):
            found |= model.state
        model = getattr(model, "model", None)
    if not found:
        return None
    digest = hashlib.sha256()
    for name in sorted(found):
        tensor = found[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
