"""Random crops, flips and colours of a batch of images at once, each a pure function of the image's key."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tasks.hashing import derive, unit

__all__ = ["Augmentation"]

LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue in grey, as torchvision and Pillow weigh them


@dataclass(frozen=True)
class Augmentation:
    """What is drawn anew for every image of every task; no state, and the same on every device up to rounding.

    Args:
        crop: pixels, ≥ 0: the image is padded by so many zeros on each side, and a window of its own size is cut out.
        flip: mirrored from left to right, or not, with probability one half.
        colour: in [0, 1): brightness, contrast and saturation, in this order, are multiplied by a number each, uniform
            in [1 − colour, 1 + colour], as torchvision's ColorJitter has them (in an order that it draws). Of grey
            images the last changes nothing.
    The settings of Lee et al. 2019 (MetaOptNet, arXiv:1904.03758) are crop=8 (of 84 pixels; 4 of 32), flip, colour=0.4.
    """

    crop: int = 0
    flip: bool = False
    colour: float = 0.0

    def __post_init__(self) -> None:
        if self.crop < 0 or not 0 <= self.colour < 1:
            raise ValueError(
                f"EpisodeSampler: crop={self.crop} must be 0 pixels or more, and colour={self.colour} in [0, 1)."
            )

    def __bool__(self) -> bool:
        return bool(self.crop or self.flip or self.colour)

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """images (n, channels, height, width) uint8, keys (n,) int64 → uint8; with colour float32 in [0, 1]."""
        if self.crop or self.flip:
            images = self._moved(images, keys)
        return self._coloured(images.to(torch.float32) / 255, keys) if self.colour else images

    def _moved(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = images.shape
        down, right, mirrored = (unit(derive(keys, purpose))[:, None] for purpose in range(3))
        places = 2 * self.crop + 1
        rows = torch.arange(height, device=images.device) + (down * places).to(torch.int64)
        columns = torch.arange(width, device=images.device).expand(n, width)
        if self.flip:
            columns = torch.where(mirrored < 0.5, columns.flip(1), columns)
        columns = columns + (right * places).to(torch.int64)
        padded = torch.nn.functional.pad(images, [self.crop] * 4)
        number = torch.arange(n, device=images.device)[:, None, None, None]
        channel = torch.arange(channels, device=images.device)[:, None, None]
        return padded[number, channel, rows[:, None, :, None], columns[:, None, None, :]]

    def _coloured(self, x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        brightness, contrast, saturation = (
            1 + self.colour * (2 * unit(derive(keys, purpose)) - 1)[:, None, None, None]
            for purpose in range(3, 6)
        )
        x = (x * brightness).clamp_(0, 1)
        x = torch.lerp(_grey(x).mean((1, 2, 3), keepdim=True), x, contrast).clamp_(0, 1)
        return x if x.shape[1] == 1 else torch.lerp(_grey(x), x, saturation).clamp_(0, 1)


def _grey(x: torch.Tensor) -> torch.Tensor:
    """(n, 1, height, width)."""
    if x.shape[1] != len(LUMA):
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
