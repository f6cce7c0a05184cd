"""Models of other libraries, built for neo.nn.TorchModel: conf/model names these functions."""

from __future__ import annotations

from typing import Any

import torch

from tasks._torchvision import import_torchvision

__all__ = ["torchvision_model"]


def torchvision_model(name: str, **options: Any) -> torch.nn.Module:
    """A classifier of torchvision, untrained, e.g. ("resnet18", num_classes=5).

    Images of one channel are seen as three equal ones, so that the weights are those that torchvision has.

    Args:
        name: one of torchvision.models.list_models().
        options: of its builder; num_classes is what every one of them has.
    Raises: ImportError where torchvision is not installed; ValueError for a name that it does not know.
    """
    module = import_torchvision().models.get_model(name, weights=None, **options)
    module.register_forward_pre_hook(_as_rgb)
    return module


def _as_rgb(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *rest = args
    return (x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x, *rest)
