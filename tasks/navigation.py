"""A point that is to find a goal in the plane. Finn et al. 2017, arXiv:1703.03400, section 5.3, "2D Navigation"."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tasks.environment import (
    Environment,
    EnvironmentSampler,
    expect_actions,
    numbers,
)
from tasks.streams import GeneratedTasks

__all__ = ["Navigation", "PointMass"]


@dataclass(frozen=True, eq=False)
class PointMass(Environment):
    """x₀ = 0;  xₜ₊₁ = xₜ + 0.1 aₜ, with aₜ within ±1;  rₜ = −‖xₜ₊₁ − goal‖.

    goal: (2,). Observations are positions (episodes, 2), actions velocities (episodes, 2), clipped here; a step is at
    most 0.1 long in each direction.
    The distance itself is the reward of the paper's code, whose text has its square; all episodes go on to the horizon,
    where theirs end within 0.01 of the goal: rewards are then 0 but for a hundredth.
    """

    rank = 1

    goal: torch.Tensor
    episodes: int
    horizon: int

    def start(self) -> torch.Tensor:
        return self.goal.new_zeros(self.episodes, 2)

    def observe(self, state: torch.Tensor) -> torch.Tensor:
        return state

    def step(self, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        expect_actions(self, action, (2,), "a velocity in the plane")
        state = state + 0.1 * action.clamp(-1.0, 1.0)
        return state, -torch.linalg.vector_norm(state - self.goal, dim=-1)


class Navigation(GeneratedTasks):
    """Goals uniform in the square [−reach, reach]²; a task is one goal, which nothing shows but the rewards.

    There is no data: the parts differ in the stream that their goals are drawn from.

    Args:
        horizon: steps of an episode, ≥ 1.
        reach: > 0, in units of the plane; 0.5 is the unit square.
    Raises: ValueError naming the argument.
    """

    name = "navigation"

    def __init__(self, *, horizon: int = 100, reach: float = 0.5) -> None:
        if not isinstance(horizon, int) or horizon < 1:
            raise ValueError(f"Navigation: horizon={horizon!r} must be an integer of 1 or more.")
        if not (math.isfinite(reach) and reach > 0):
            raise ValueError(f"Navigation: reach={reach!r} must be a finite number above 0.")
        self.horizon, self.reach = horizon, float(reach)
        self.split = f"horizon={self.horizon},reach={self.reach}"

    def sampler(
        self, part: str, *, shots: int, queries: int, seed: int, device: str | torch.device = "cpu"
    ) -> EnvironmentSampler:
        """The tasks of a part ("train", "val" or "test"), of shots and queries episodes; see EnvironmentSampler."""
        return EnvironmentSampler(self, part, shots=shots, queries=queries, seed=seed, device=device)

    def environment(self, keys: torch.Tensor, episodes: int) -> PointMass:
        return PointMass((2 * numbers(keys, 2) - 1) * self.reach, episodes, self.horizon)

    @property
    def chance(self) -> float:
        """The mean return of standing still: horizon times the mean distance of a goal from the middle."""
        return -self.horizon * self.reach * (math.sqrt(2) + math.asinh(1)) / 3
