"""From an image as it is stored to one uint8 array (channels, height, width)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from tasks.images.listing import load

__all__ = ["pixels"]

GREY = ("1", "L", "LA")
COLOUR = (
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
)  # Pillow's names of 8-bit images; it would clip those of more bits


def pixels(item: Any, size: int | None, channels: int | None) -> np.ndarray:
    """The image as uint8 (channels, height, width).

    size: height and width it is resized to, by Pillow's Lanczos filter; None: as it is.
    channels: 1 (grey) or 3 (RGB); None: as it is. Transparency is dropped.
    Raises: ValueError for an image of another kind, or whatever a damaged one raises.
    """
    image = load(item)
    if not isinstance(image, Image.Image):
        image = _from_array(image)
    if image.mode not in GREY + COLOUR:
        raise ValueError(f"of mode {image.mode}; save it as 8-bit RGB or grey")
    wanted = channels or (1 if image.mode in GREY else 3)
    image = image.convert(
        "L" if wanted == 1 else "RGB"
    )  # first: Pillow resizes 1-bit images by the nearest neighbour
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, wanted).transpose(2, 0, 1)


def _from_array(value: Any) -> Image.Image:
    array = value.numpy(force=True) if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype != np.uint8:
        raise ValueError(
            f"{array.dtype} {array.shape}, expected uint8 in [0, 255]; leave out a transform that makes numbers of it"
        )
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ValueError(
            f"of shape {array.shape}, expected (height, width), (height, width, channels) or (channels, height, width) "
            "of 1, 3 or 4 channels"
        )
    return Image.fromarray(np.ascontiguousarray(array))
