"""Straight lines of which some points are wrong: regression by a loss that knows how they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tasks.streams import GeneratedTasks, TaskStream, within
from tasks.task import Batch, Task

__all__ = ["LineSampler", "Lines"]

SLOPES, OFFSETS, X = (-2.0, 2.0), (-2.0, 2.0), (-1.0, 1.0)


class Lines(GeneratedTasks):
    """y = a x + b, a and b uniform in ±2, x in ±1; a task is one line. Some support targets lie `shift` too high.

    There is no data: the parts differ in the stream that their tasks are drawn from, and no two tasks are the same.

    Args:
        outliers: fraction of the support points that are shifted, each drawn independently, in [0, 1].
        shift: by how much, in units of y.
    Raises: ValueError for a fraction that is none.
    """

    name = "lines"

    def __init__(self, *, outliers: float = 0.3, shift: float = 5.0) -> None:
        if not 0 <= outliers <= 1:
            raise ValueError(
                f"Lines: outliers must be a fraction of the support points in [0, 1], got {outliers}"
            )
        self.outliers, self.shift = outliers, shift
        self.split = f"outliers={outliers},shift={shift}"

    def sampler(
        self, part: str, *, shots: int, queries: int, seed: int, device: str | torch.device = "cpu"
    ) -> LineSampler:
        """The tasks of a part ("train", "val" or "test"); see LineSampler."""
        return LineSampler(self, part, shots=shots, queries=queries, seed=seed, device=device)


class LineSampler(TaskStream):
    """Draws meta-batches of lines: a pure function of (seed, split, iteration, slot). Queries lie on their line.

    Args: as tasks.streams.TaskStream has them.
    """

    @property
    def chance(self) -> float:
        """The mean squared error of predicting 0 everywhere, E[a²] E[x²] + E[b²]."""
        squares = [(low * low + low * high + high * high) / 3 for low, high in (SLOPES, X, OFFSETS)]
        return squares[0] * squares[1] + squares[2]

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; arguments as EpisodeSampler.sample has them.

        Returns: support.x and .y (slots, shots, 1) float32, query likewise with queries.
        """
        keys = self.keys(iteration, slots)
        slope, offset = self.units(keys, 0, 2).split(1, 1)
        x = within(X, self.units(keys, 1, self.shots + self.queries))
        y = within(SLOPES, slope) * x + within(OFFSETS, offset)
        wrong = self.units(keys, 2, self.shots) < self.source.outliers
        support = y[:, : self.shots] + self.source.shift * wrong
        return Task(
            Batch(x[:, : self.shots, None], support[..., None]),
            Batch(x[:, self.shots :, None], y[:, self.shots :, None]),
        )
