"""Sinusoids: the regression family of the MAML paper. Finn et al. 2017, arXiv:1703.03400, section 5.1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tasks.hashing import derive, unit
from tasks.streams import GeneratedTasks, TaskStream, within
from tasks.task import Batch, Task

__all__ = ["Sinusoid", "SinusoidSampler"]


class Sinusoid(GeneratedTasks):
    """y = A sin(ωx − φ), with A, φ, ω and x uniform in their ranges; a task is one (A, φ, ω).

    There is no data: the parts differ in the stream that their tasks are drawn from, and no two tasks are the same.

    Args:
        amplitude: (least, most) of A, in units of y.
        phase_rad: (least, most) of φ, in radians.
        frequency: (least, most) of ω, in radians per unit of x. MAML's is 1; Meta-SGD's (Li et al. 2017,
            arXiv:1707.09835, section 4.1) lies in [0.8, 1.2].
        x: (least, most) of x; radians, where ω is 1.
    Raises: ValueError for a range that is none.
    """

    name = "sinusoid"

    def __init__(
        self,
        *,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase_rad: tuple[float, float] = (0.0, math.pi),
        frequency: tuple[float, float] = (1.0, 1.0),
        x: tuple[float, float] = (-5.0, 5.0),
    ) -> None:
        self.amplitude = _range("amplitude", amplitude)
        self.phase_rad = _range("phase_rad", phase_rad)
        self.frequency = _range("frequency", frequency)
        self.x = _range("x", x)
        self.split = f"amplitude={self.amplitude},phase_rad={self.phase_rad},x={self.x}"
        if self.frequency != (
            1.0,
            1.0,
        ):  # the tasks of ω = 1 are drawn by their name, which had no ω at first
            self.split += f",frequency={self.frequency}"

    def sampler(
        self, part: str, *, shots: int, queries: int, seed: int, device: str | torch.device = "cpu"
    ) -> SinusoidSampler:
        """The K-shot tasks of a part ("train", "val" or "test"); see SinusoidSampler."""
        return SinusoidSampler(self, part, shots=shots, queries=queries, seed=seed, device=device)


class SinusoidSampler(TaskStream):
    """Draws meta-batches of sinusoids: a task is a pure function of (seed, split, iteration, slot).

    Every number is the upper 24 bits of a hash, the same on every device; the sine is the device's own, so that y may
    differ in its last bits between a CPU and a GPU.

    Args:
        shots, queries: points of the support (≥ 1) and of the query set (≥ 1), all drawn independently.
        others: as tasks.streams.TaskStream has them.
    Raises: ValueError naming the argument.
    """

    @property
    def chance(self) -> float:
        """The mean squared error of predicting 0 everywhere, E[A²] E[sin²(ωx − φ)]."""
        low, high = self.source.amplitude
        square = (low * low + low * high + high * high) / 3
        # E[cos 2(ωx − φ)] over x and φ of one ω: the product of the two ranges' characteristic functions.
        least, most = self.source.frequency
        omega = torch.linspace(least, most, 1001, dtype=torch.float64)
        (x_low, x_high), (phase_low, phase_high) = self.source.x, self.source.phase_rad
        wave = _sinc(omega * (x_high - x_low)) * _sinc(torch.tensor(phase_high - phase_low).double())
        mean = (wave * torch.cos(omega * (x_low + x_high) - (phase_low + phase_high))).mean()
        return square * (1 - float(mean)) / 2

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; arguments as EpisodeSampler.sample has them.

        Returns: support.x and .y (slots, shots, 1) float32, query likewise with queries.
        """
        amplitude, phase_rad, frequency = self.draw(iteration, slots)
        x = within(self.source.x, self.units(self.keys(iteration, slots), 2, self.shots + self.queries))
        y = amplitude[:, None] * torch.sin(frequency[:, None] * x - phase_rad[:, None])
        x, y = x[..., None], y[..., None]
        return Task(
            support=Batch(x[:, : self.shots], y[:, : self.shots]),
            query=Batch(x[:, self.shots :], y[:, self.shots :]),
        )

    def draw(
        self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the tasks are: amplitude, phase in radians and frequency, each (slots,) float32."""
        keys = self.keys(iteration, slots)
        amplitude, phase_rad, frequency = (unit(derive(keys, number)) for number in (0, 1, 3))
        return (
            within(self.source.amplitude, amplitude),
            within(self.source.phase_rad, phase_rad),
            within(self.source.frequency, frequency),
        )


def _sinc(x: torch.Tensor) -> torch.Tensor:
    """sin x / x, and 1 at 0."""
    return torch.special.sinc(x / math.pi)


def _range(name: str, bounds: Sequence[float]) -> tuple[float, float]:
    low, high = (float(bound) for bound in bounds) if len(bounds) == 2 else (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(
            f"Sinusoid: {name}={list(bounds)} is not a range; choose {name}=[least, most] with least ≤ most."
        )
    return low, high
