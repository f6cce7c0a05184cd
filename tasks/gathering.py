"""Chosen images of a set as float32, augmented and normalised: the pixels of every task.

On the CPU, uint8 images take one pass over memory, in C (_gather.pyx). With `colour`, whose means need the whole image,
they are taken a few at a time, which stay in the cache from the first pass to the last. Torch's functions do the same,
bit for bit, on a GPU, of floats, and where the extension was not built.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from tasks.augmentation import Augmentation, coloured_

try:
    from tasks._gather import gather
except ImportError:  # as where there is no C compiler
    gather = None  # type: ignore[assignment]

__all__ = ["Gathering"]

# Bytes that the processor's last cache holds: of more, the first are gone when the last are written.
CACHE = 1 << 24
GRAIN = 1 << 18  # numbers that are worth a thread: some 30 microseconds
# Bytes of images that a core finds again in its caches; fewer cost as much, in more calls of torch.
CHUNK = 1 << 22


class Gathering:
    """Rows of images (n, channels, height, width) on `device`, in [0, 1], or (x − mean) / std.

    images: on `device` or the CPU; uint8, or floats that are in [0, 1] already.
    mean, std: (channels, 1, 1) float32, or None: not subtracted, not divided by.
    """

    def __init__(
        self,
        images: torch.Tensor,
        augmentation: Augmentation,
        mean: torch.Tensor | None,
        std: torch.Tensor | None,
        device: torch.device,
    ) -> None:
        self.images, self.augmentation, self.device = images, augmentation, device
        self.mean, self.std = mean, std
        self._on_cpu = (
            device.type == images.device.type == "cpu" and images.dtype == torch.uint8 and images.dim() == 4
        )

    def __call__(self, rows: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        """rows (n,) int64; keys (n,) int64, for Augmentation, or None: images as they are → (n, *image) float32.

        Raises: IndexError for a row that is not there.
        """
        if not self._on_cpu:
            return self.by_torch(rows, keys)
        x = torch.empty(len(rows), *self.images.shape[1:], dtype=torch.float32, device="cpu")
        if gather is None or not self.images.is_contiguous():
            for some in _chunks(x):
                x[some] = self.by_torch(rows[some], None if keys is None else keys[some])
            return x
        moves = None if keys is None or not self.augmentation.moves_images else self.augmentation.moves(keys)
        if keys is None or not self.augmentation.colour:
            self._gather(x, rows, moves, self.mean, self.std)
            return x
        factors = self.augmentation.factors(keys)
        for some in _chunks(x):
            self._gather(x[some], rows[some], None if moves is None else moves[some], None, None)
            self._normalised_(coloured_(x[some], factors[some]))
        return x

    def by_torch(self, rows: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        """The same by torch's functions, on any device, all images in each of several passes."""
        x = self.images.index_select(0, rows.to(self.images.device)).to(self.device)
        if keys is not None:
            x = self.augmentation(x, keys)
        return self._normalised_(x.to(torch.float32).div_(255) if x.dtype == torch.uint8 else x)

    def _normalised_(self, x: torch.Tensor) -> torch.Tensor:
        if self.mean is not None:
            x = x.sub_(self.mean)
        if self.std is not None:
            x = x.div_(self.std)
        return x

    def _gather(
        self,
        out: torch.Tensor,
        rows: torch.Tensor,
        moves: torch.Tensor | None,
        mean: torch.Tensor | None,
        std: torch.Tensor | None,
    ) -> None:
        gather(
            self.images.numpy(),
            rows.numpy(),
            out.numpy(),
            None if moves is None else moves.numpy(),
            None if mean is None else mean.flatten().numpy(),
            None if std is None else std.flatten().numpy(),
            out.nbytes > CACHE,
            max(1, min(torch.get_num_threads(), out.numel() // GRAIN)),
        )


def _chunks(x: torch.Tensor) -> list[slice]:
    """Images of CHUNK bytes for each thread, but none alone: its mean, several threads would sum in another order."""
    n = len(x)
    step = max(2, torch.get_num_threads() * CHUNK // max(1, x[:1].nbytes))
    starts = [start for start in range(0, n, step) if start == 0 or n - start > 1]
    return [slice(start, end) for start, end in pairwise([*starts, n])]
