"""Harmonics: two sines, the second of twice the frequency. Lacoste et al. 2018, arXiv:1806.07528."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tasks.streams import GeneratedTasks, TaskStream, within
from tasks.task import Batch, Task

__all__ = ["Harmonic", "HarmonicSampler"]

FREQUENCY = (5.0, 7.0)  # of ω, in radians per unit of x
AMPLITUDE = (0.2, 1.0)
X = (-1.0, 1.0)


class Harmonic(GeneratedTasks):
    """y = a₁ sin(ω x + b₁) + a₂ sin(2 ω x + b₂), with ω in 5 to 7, a₁, a₂ in 0.2 to 1, b₁, b₂ in 0 to 2π, x in ±1.

    All are uniform, after the paper's family; a task is one (ω, a₁, a₂, b₁, b₂). There is no data: the parts differ in
    the stream that their tasks are drawn from, and no two tasks are the same.
    """

    name = "harmonic"
    split = f"frequency={FREQUENCY},amplitude={AMPLITUDE},x={X}"

    def sampler(
        self, part: str, *, shots: int, queries: int, seed: int, device: str | torch.device = "cpu"
    ) -> HarmonicSampler:
        """The K-shot tasks of a part ("train", "val" or "test"); see HarmonicSampler."""
        return HarmonicSampler(self, part, shots=shots, queries=queries, seed=seed, device=device)


class HarmonicSampler(TaskStream):
    """Draws meta-batches of harmonics: a pure function of (seed, split, iteration, slot).

    Args: as tasks.streams.TaskStream has them.
    """

    @property
    def chance(self) -> float:
        """The mean squared error of predicting 0 everywhere: E[a²], for phases are uniform over whole periods."""
        low, high = AMPLITUDE
        return (low * low + low * high + high * high) / 3

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; arguments as EpisodeSampler.sample has them.

        Returns: support.x and .y (slots, shots, 1) float32, query likewise with queries.
        """
        frequency, amplitudes, phases = self.draw(iteration, slots)
        x = within(X, self.units(self.keys(iteration, slots), 1, self.shots + self.queries))
        waves = torch.sin(frequency * x[:, None] * torch.tensor([[[1.0], [2.0]]], device=x.device) + phases)
        x, y = x[..., None], (amplitudes * waves).sum(1)[..., None]
        return Task(
            support=Batch(x[:, : self.shots], y[:, : self.shots]),
            query=Batch(x[:, self.shots :], y[:, self.shots :]),
        )

    def draw(
        self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the tasks are: ω (slots, 1, 1), a and b (slots, 2, 1), float32."""
        numbers = self.units(self.keys(iteration, slots), 0, 5)[..., None]
        frequency, amplitudes, phases = numbers.split([1, 2, 2], 1)
        return within(FREQUENCY, frequency), within(AMPLITUDE, amplitudes), 2 * math.pi * phases
