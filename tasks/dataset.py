"""A set of hand-drawn characters with its class split: what every character data set gives to the sampler."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tasks.errors import DataError
from tasks.sampler import EpisodeSampler, Pool


class CharacterSet:
    """Images of characters, some of each, and which of them meta-train, meta-val and meta-test use.

    images: (characters, images_per_class, height, width), uint8, strokes 255 on paper 0; on the CPU. Of photographs and
        the like (characters, images_per_class, channels, height, width).
    names: one per character, "Alphabet/character01".
    parts: "train", "val", "test" → int64 indices of their characters; no character is in two of them.
    checksum: SHA-256 of images and names, the same wherever and however they were read.
    source: what the images were read from or made with, for the log.
    Raises: DataError where images and names do not match or two parts share a character.
    """

    def __init__(
        self,
        name: str,
        split: str,
        images: torch.Tensor,
        names: Sequence[str],
        parts: Mapping[str, Sequence[int]],
        source: str,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim not in (4, 5) or len(images) != len(names):
            raise DataError(
                f"{name}: expected uint8 images (characters, images_per_class, [channels,] height, width) with a name "
                f"for each character, got {images.dtype} {tuple(images.shape)} and {len(names)} names."
            )
        self.name, self.split, self.source = name, split, source
        self.images = images
        self.names: Sequence[str] = tuple(names)
        self.parts: Mapping[str, torch.Tensor] = {
            part: torch.tensor(list(chosen), dtype=torch.int64, device="cpu")
            for part, chosen in parts.items()
        }
        chosen = torch.cat(list(self.parts.values()))
        if len(set(chosen.tolist())) != chosen.numel():
            raise DataError(f"{name}: parts of split {split!r} share a character; they must be disjoint.")
        self.checksum = self._checksum()

    def pool(self, part: str) -> Pool:
        """What the tasks of a part are drawn from."""
        chosen = self.images[self.parts[part]]
        images = (
            chosen.reshape(-1, *chosen.shape[2:])
            if chosen.ndim == 5
            else chosen.reshape(-1, 1, *chosen.shape[2:])
        )
        counts = torch.full((len(chosen),), chosen.shape[1], dtype=torch.int64, device="cpu")
        return Pool(images, torch.arange(len(images), device="cpu"), counts)

    def sampler(
        self,
        part: str,
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int,
        rotations: bool = True,
        device: str | torch.device = "cpu",
    ) -> EpisodeSampler:
        """The N-way K-shot tasks of one part ("train", "val" or "test"); see EpisodeSampler."""
        return EpisodeSampler(
            self, part, ways=ways, shots=shots, queries=queries, seed=seed, rotations=rotations, device=device
        )

    def describe(self) -> dict[str, Any]:
        """What a result must say about its data: names, counts and checksum, as plain numbers and strings."""
        return {
            "dataset": self.name,
            "split": self.split,
            "characters": len(self.names),
            "images_per_class": self.images.shape[1],
            **{part: len(chosen) for part, chosen in self.parts.items()},
            "checksum": self.checksum,
            "source": self.source,
        }

    def __repr__(self) -> str:
        parts = "/".join(str(len(chosen)) for chosen in self.parts.values())
        return f"{type(self).__name__}({len(self.names)} characters, split {self.split} {parts})"

    def _checksum(self) -> str:
        digest = hashlib.sha256(f"{tuple(self.images.shape)}\n".encode())
        digest.update("\n".join(self.names).encode())
        digest.update(self.images.numpy().tobytes())
        return digest.hexdigest()
