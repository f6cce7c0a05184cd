"""Random crops, flips and colours of a batch of images at once, each a pure function of the image's key."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tasks.hashing import derive, unit

__all__ = ["Augmentation", "coloured_", "moved"]

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

    @property
    def moves_images(self) -> bool:
        return bool(self.crop or self.flip)

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """images (n, channels, height, width) uint8, keys (n,) int64 → uint8; with colour float32 in [0, 1]."""
        if self.moves_images:
            images = moved(images, self.moves(keys), self.crop)
        if not self.colour:
            return images
        return coloured_(images.to(torch.float32) / 255, self.factors(keys))

    def moves(self, keys: torch.Tensor) -> torch.Tensor:
        """Of each image, (n, 3) int64: down and right, where its window begins, in [−crop, crop]; mirrored, 0 or 1."""
        down, right, mirrored = (unit(derive(keys, purpose)) for purpose in range(3))
        places = 2 * self.crop + 1
        begins = [(one * places).to(torch.int64) - self.crop for one in (down, right)]
        return torch.stack([*begins, (mirrored < 0.5 * self.flip).to(torch.int64)], 1)

    def factors(self, keys: torch.Tensor) -> torch.Tensor:
        """Brightness, contrast and saturation of each image, (n, 3) float32."""
        drawn = torch.stack([unit(derive(keys, purpose)) for purpose in range(3, 6)], 1)
        return 1 + self.colour * (2 * drawn - 1)


def moved(images: torch.Tensor, moves: torch.Tensor, crop: int, outside: int = 0) -> torch.Tensor:
    """images (n, channels, height, width), moves (n, 3) of Augmentation.moves → windows, `outside` around images."""
    n, channels, height, width = images.shape
    down, right, mirrored = moves[:, :, None].unbind(1)
    columns = torch.arange(width, device=images.device).expand(n, width)
    columns = torch.where(mirrored > 0, columns.flip(1), columns) + (crop + right)
    rows = torch.arange(height, device=images.device) + (crop + down)
    pixels = (rows * (width + 2 * crop))[:, :, None] + columns[:, None, :]
    padded = torch.nn.functional.pad(images, [crop] * 4, value=outside).flatten(2)
    return padded.gather(2, pixels.view(n, 1, height * width).expand(n, channels, -1)).view(images.shape)


def coloured_(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """x (n, channels, height, width) float32 in [0, 1], changed in place; factors (n, 3) of Augmentation.factors."""
    brightness, contrast, saturation = (one[:, None, None, None] for one in factors.unbind(1))
    grey = _grey(x.mul_(brightness).clamp_(0, 1))
    # Filled, and not broadcast: torch's lerp is slow where it has to broadcast both of its ends.
    grey.copy_(grey.mean((1, 2, 3), keepdim=True))
    torch.lerp(grey, x, contrast, out=x).clamp_(0, 1)
    return x if x.shape[1] == 1 else torch.lerp(_grey(x), x, saturation, out=x).clamp_(0, 1)


def _grey(x: torch.Tensor) -> torch.Tensor:
    """(n, 1, height, width), a new tensor."""
    if x.shape[1] != len(LUMA):
        return x.mean(1, keepdim=True)
    red, green, blue = (x[:, i : i + 1] * weight for i, weight in enumerate(LUMA))
    return red.add_(green).add_(blue)
