"""Travelling waves of shallow water, to be found from their equation alone. Korteweg and de Vries 1895."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from tasks.streams import GeneratedTasks, TaskStream, at_least, within
from tasks.task import Batch, Task, register

__all__ = ["Collocation", "KortewegDeVries", "KortewegDeVriesSampler", "soliton"]

SPEED = (1.0, 3.0)  # of c: also twice the height
PLACE = (-2.0, 0.0)  # of x₀, where the crest is at t = 0
X, T = (-4.0, 4.0), (0.0, 1.0)
MIDPOINTS = 40  # of the quadrature in each of c, x₀ and t


@dataclass(frozen=True, eq=False)
class Collocation:
    """What a boundary value problem says of its solution: places where an equation holds, and places of known value.

    points: (n, coordinates), or (meta_batch, n, coordinates); float.
    known: initial and boundary values, a Batch of x (m, coordinates) and y (m, 1), or with meta_batch in front.
    """

    points: torch.Tensor
    known: Batch

    @property
    def batched(self) -> bool:
        """True when the leading axis counts tasks."""
        return self.known.batched

    def __len__(self) -> int:
        """Of a meta-batch, its tasks; of one task, its collocation points."""
        return len(self.points)

    def __getitem__(self, index: int | slice) -> Self:
        return type(self)(self.points[index], self.known[index])

    def to(self, device: str | torch.device) -> Self:
        """The same problem on another device."""
        return type(self)(self.points.to(device), self.known.to(device))


register(Collocation, "points", "known")


class KortewegDeVries(GeneratedTasks):
    """u_t + 6 u u_x + u_xxx = 0, with x in ±4 and t in 0 to 1, solved by one soliton; a task is its (c, x₀).

    u(x, t) = c/2 sech²(√c/2 (x − c t − x₀)), c uniform in 1 to 3, x₀ in −2 to 0; all without units. Support sets have
    no targets but initial and boundary values; query sets have the exact solution. There is no data: the parts differ
    in the stream that their tasks are drawn from, and no two tasks are the same.
    """

    name = "korteweg_de_vries"
    split = f"speed={SPEED},place={PLACE},x={X},t={T}"

    def sampler(
        self,
        part: str,
        *,
        shots: int,
        values: int,
        queries: int,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> KortewegDeVriesSampler:
        """The solitons of a part ("train", "val" or "test"); see KortewegDeVriesSampler."""
        return KortewegDeVriesSampler(
            self,
            part,
            shots=shots,
            values=values,
            queries=queries,
            seed=seed,
            device=device,
        )


class KortewegDeVriesSampler(TaskStream):
    """Draws meta-batches of solitons: a pure function of (seed, split, iteration, slot).

    Args:
        shots: collocation points, ≥ 1, uniform in x and t.
        values: initial values u(x, 0), uniform in x, and as many of u(−4, t) and of u(4, t) each, uniform in t; ≥ 1.
            A well-posed problem has the slope at x = 4 too, which these tasks leave out.
        queries: points with the exact solution, ≥ 1, uniform in x and t.
        others: as tasks.streams.TaskStream has them.
    """

    def __init__(self, source: KortewegDeVries, part: str, *, values: int, **settings: Any) -> None:
        super().__init__(source, part, **settings)
        self.values = at_least(1, self.owner, "values", values)

    @property
    def title(self) -> str:
        return f"{self.shots} collocation points"

    @property
    def chance(self) -> float:
        """The mean squared error of predicting 0 everywhere: exact in x, by the midpoint rule in c, x₀ and t."""
        middle = (torch.arange(MIDPOINTS, dtype=torch.float64) + 0.5) / MIDPOINTS
        speed, place, time = torch.cartesian_prod(middle, middle, middle).unbind(1)
        c = within(SPEED, speed)
        crest = within(PLACE, place) + c * within(T, time)
        left, right = (torch.tanh(c.sqrt() / 2 * (x - crest)) for x in X)
        # ∫ sech⁴ z dz = tanh z − tanh³ z / 3, and dx = 2/√c dz
        squares = c**2 / 4 * 2 / c.sqrt() * ((right - right**3 / 3) - (left - left**3 / 3))
        return float(squares.mean()) / (X[1] - X[0])

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; arguments as EpisodeSampler.sample has them.

        Returns: support.points (slots, shots, 2), columns x and t, support.known of 3 values examples, the initial
            ones first, then left and right; query.x (slots, queries, 2) and .y (slots, queries, 1); all float32.
        """
        keys = self.keys(iteration, slots)
        along = self.units(keys, 3, 3 * self.values).unflatten(1, (3, self.values))
        start = torch.stack([within(X, along[:, 0]), torch.full_like(along[:, 0], T[0])], -1)
        ends = (
            torch.stack([torch.full_like(t, x), within(T, t)], -1)
            for x, t in zip(X, along[:, 1:].unbind(1), strict=True)
        )
        return Task(
            Collocation(
                self._places(keys, 1, self.shots),
                self.solved(iteration, slots, torch.cat([start, *ends], 1)),
            ),
            self.solved(iteration, slots, self._places(keys, 2, self.queries)),
        )

    def solved(
        self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor, points: torch.Tensor
    ) -> Batch:
        """The exact solution of each task at its points, (slots, n, 2) of x and t."""
        speed, place = (numbers[:, None] for numbers in self.draw(iteration, slots))
        return Batch(points, soliton(speed, place, points))

    def draw(
        self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the tasks are: c and x₀, (slots, 1) each, float32."""
        speed, place = self.units(self.keys(iteration, slots), 0, 2).split(1, 1)
        return within(SPEED, speed), within(PLACE, place)

    def _places(self, keys: torch.Tensor, number: int, count: int) -> torch.Tensor:
        """(slots, count, 2): x and t, uniform."""
        x, t = self.units(keys, number, 2 * count).unflatten(1, (2, count)).unbind(1)
        return torch.stack([within(X, x), within(T, t)], -1)


def soliton(speed: torch.Tensor, place: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """c/2 sech²(√c/2 (x − c t − x₀)), (..., 1), at points (..., 2) of x and t; c and x₀ broadcast against (..., 1).

    In float64, then rounded to the points' dtype: torch's cosh rounds the last numbers of a tensor, those that do not
    fill a vector of the processor, otherwise than the others; in float32 a task would depend on how many are drawn.
    """
    x, t = points.double().split(1, -1)
    speed, place = speed.double(), place.double()
    return (speed / 2 / torch.cosh(speed.sqrt() / 2 * (x - speed * t - place)) ** 2).to(points.dtype)
