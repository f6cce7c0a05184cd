"""A support set of the user's own: a folder of class folders, or arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks import Batch
from tasks.images.decoding import pixels
from tasks.images.folders import class_folders

__all__ = ["read_support"]


def read_support(source: Path, like: Batch, settings: Any) -> tuple[Batch, list[str]]:
    """The examples with their labels, and what the labels stand for: numbers, where nothing says.

    Args:
        source: a folder <class>/<image>, whose classes are numbered in the order of their names, or an .npz of x and y.
            Images are made as large as those of the run's tasks, of as many channels, in [0, 1], and normalised by its
            task.mean and task.std; x of floating-point numbers is taken as it is.
        like: of a task of the run, whose shape and dtype examples have.
        settings: config.task.
    Raises: ValueError where there is no such thing, or it does not fit; DataError for folders without images.
    """
    item = tuple(like.x.shape[1:])
    if source.is_dir():
        if len(item) != 3:
            raise ValueError(
                f"support={source} holds images, and an example of this run is {item}; give an .npz."
            )
        listing = class_folders(source).read()
        names = sorted(set(listing.classes))
        channels, size, _ = item
        images = np.stack([pixels(one, size, channels) for one in listing.items])
        x = _normalised(torch.from_numpy(images), settings)
        y = torch.tensor([names.index(name) for name in listing.classes])
    elif source.suffix == ".npz" and source.is_file():
        with np.load(source, allow_pickle=False) as arrays:
            if not {"x", "y"} <= set(arrays):
                raise ValueError(
                    f"support={source} holds {', '.join(arrays) or 'nothing'}; it must have x and y."
                )
            x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
        x = _normalised(x, settings) if x.dtype == torch.uint8 else x
        y = y if like.y.is_floating_point() else y.to(torch.int64)
        names = [] if like.y.is_floating_point() else [str(label) for label in range(int(y.max()) + 1)]
    else:
        raise ValueError(f"support={source} is neither a folder of class folders nor an .npz that is there.")
    if tuple(x.shape[1:]) != item or len(x) != len(y):
        raise ValueError(
            f"support={source} has x {tuple(x.shape)} and y {tuple(y.shape)}; an example of this run is {item}, with a "
            "target each."
        )
    return Batch(x.to(like.x.dtype), y.to(like.y.dtype)), names


def _normalised(images: torch.Tensor, settings: Any) -> torch.Tensor:
    x = images.to(torch.float32) / 255
    mean, std = settings.get("mean"), settings.get("std")
    if mean is not None:
        x = x - torch.tensor(list(mean)).view(-1, 1, 1)
    return x if std is None else x / torch.tensor(list(std)).view(-1, 1, 1)
