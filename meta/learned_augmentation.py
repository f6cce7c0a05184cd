"""Augmentation of training images whose strengths are learned: random transforms, differentiable by the strengths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from neo import LiteTensor

__all__ = ["LearnedAugmentation"]

KINDS = ("translation", "brightness", "noise")


class LearnedAugmentation:
    """Images moved, made brighter or darker, and covered with noise, each by a standard normal draw times a strength.

    x′ = T_{s_t u}(x) · (1 + s_b v) + s_n ε,   u (2,) and v of an image, ε of a pixel, all standard normal

    T moves an image by so many pixels, with bilinear interpolation and zeros from outside. The draws are made apart
    from what is computed with them (they are reparameterised), so that x′ is a differentiable function of the
    strengths, and of nothing else that is random. Strengths are learned by their logarithms.

    Args:
        owner: the algorithm, named in errors.
        strengths: what each kind begins at, > 0: of "translation" in pixels, of "brightness" as a factor, of "noise" in
            units of x. What is not named is not done.
    Raises: ValueError for another kind, and for a strength out of its range.
    """

    def __init__(self, owner: str, strengths: Mapping[str, float]) -> None:
        for kind, value in strengths.items():
            if kind not in KINDS:
                raise ValueError(f"{owner}: augment has {kind!r}; choose from {', '.join(KINDS)}")
            if not 0 < value < math.inf:
                raise ValueError(
                    f"{owner}: augment={kind}: {value} is where a positive number is searched from, by its logarithm; "
                    "it must be finite and above 0"
                )
        self.owner, self.strengths = owner, dict(strengths)

    def __bool__(self) -> bool:
        return bool(self.strengths)

    def initial(self, device: str | torch.device) -> dict[str, LiteTensor]:
        """Logarithms of the strengths to begin with."""
        return {
            kind: LiteTensor(torch.tensor(math.log(value), device=device))
            for kind, value in self.strengths.items()
        }

    def draw(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """One draw for every image of x (n, ...), from the generator that random functions draw from.

        Raises: ValueError for x that are no numbers, or for translation no images (n, channels, height, width).
        """
        if not x.is_floating_point() or x.ndim < 2 or ("translation" in self.strengths and x.ndim != 4):
            wanted = (
                "images (n, channels, height, width)"
                if "translation" in self.strengths
                else "floats (n, ...)"
            )
            raise ValueError(
                f"{self.owner}: augment={{{', '.join(self.strengths)}}} is of inputs that are {wanted}; got "
                f"{tuple(x.shape)} {x.dtype}"
            )
        of_image = x.flatten(1)
        like = {"translation": of_image[:, :2], "brightness": of_image[:, 0], "noise": x}
        return {kind: torch.randn_like(like[kind]) for kind in self.strengths}

    def __call__(self, x: torch.Tensor, drawn: Mapping[str, torch.Tensor], logs: Mapping[str, Any]) -> Any:
        """x′, by a draw and logarithms of the strengths."""
        found: Any = x
        if "translation" in drawn:
            found = moved(found, torch.exp(logs["translation"]) * drawn["translation"])
        if "brightness" in drawn:
            factor = 1 + torch.exp(logs["brightness"]) * drawn["brightness"]
            found = found * factor.reshape(-1, *[1] * (x.ndim - 1))
        if "noise" in drawn:
            found = found + torch.exp(logs["noise"]) * drawn["noise"]
        return found


def moved(images: Any, by: Any) -> Any:
    """images (n, channels, height, width), moved down and right by (n, 2) pixels: bilinear, zeros from outside.

    x′[i, j] = Σ_ab h(i − dy − a) h(j − dx − b) x[a, b],  h(t) = max(1 − |t|, 0)
    """
    rows, columns = (
        _weights(size, by[:, mode], images) for mode, size in enumerate((images.shape[-2], images.shape[-1]))
    )
    return rows[:, None] @ images @ columns[:, None].transpose(-1, -2)


def _weights(size: int, by: Any, like: Any) -> Any:
    """(n, size, size): of old places in new ones, along one mode."""
    place = torch.arange(size, dtype=like.dtype, device=like.device)
    distance = (place[:, None] - place)[None] - by[:, None, None]
    return torch.relu(1 - distance.abs())
