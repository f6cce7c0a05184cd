"""Random least squares, for optimisers to be learned on. Andrychowicz et al. 2016, arXiv:1606.04474, section 3.1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tasks.streams import GeneratedTasks, TaskStream, at_least
from tasks.task import Batch, Task

__all__ = ["QuadraticSampler", "Quadratics"]


class Quadratics(GeneratedTasks):
    """Minimise ‖W θ − y‖² / rows over θ, all entries of W (rows, dims) and y (rows,) drawn from N(0, 1); a task is one.

    There is no data: the parts differ in the stream that their tasks are drawn from, and no two tasks are the same.

    Args:
        dims: entries of θ, ≥ 1.
        rows: ≥ 1.
    Raises: ValueError naming the argument.
    """

    name = "quadratics"

    def __init__(self, *, dims: int = 10, rows: int = 10) -> None:
        self.dims, self.rows = (
            at_least(1, "Quadratics", "dims", dims),
            at_least(1, "Quadratics", "rows", rows),
        )
        self.split = f"{rows}x{dims}"

    def sampler(self, part: str, *, seed: int, device: str | torch.device = "cpu") -> QuadraticSampler:
        """The tasks of a part ("train", "val" or "test"); see QuadraticSampler."""
        return QuadraticSampler(self, part, seed=seed, device=device)


class QuadraticSampler(TaskStream):
    """Draws meta-batches of quadratics: a pure function of (seed, split, iteration, slot).

    Support and query are the same rows: what is learned is how to descend, and there is nothing to generalise to.

    Args: as tasks.streams.TaskStream has them.
    """

    chance = 1.0  # of θ = 0: the mean of y²

    def __init__(
        self, source: Quadratics, part: str, *, seed: int, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(source, part, shots=source.rows, queries=source.rows, seed=seed, device=device)

    @property
    def title(self) -> str:
        return f"{self.source.rows} rows of {self.source.dims}"

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; arguments as EpisodeSampler.sample has them.

        Returns: support.x (slots, rows, dims) float32, the rows of W; support.y (slots, rows, 1); query the same.
        """
        rows, dims = self.source.rows, self.source.dims
        uniform = self.units(self.keys(iteration, slots), 0, rows * (dims + 1))
        # The normal distribution's quantiles; in the middle of each of 2**24 steps, so that none is infinite.
        normal = math.sqrt(2) * torch.special.erfinv(2 * (uniform.double() + 2.0**-25) - 1)
        numbers = normal.float().view(-1, rows, dims + 1)
        batch = Batch(numbers[..., :dims], numbers[..., dims:])
        return Task(batch, batch)
