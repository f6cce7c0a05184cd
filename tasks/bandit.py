"""Bandits: machines of several arms, each of which pays with a probability of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tasks.environment import (
    Environment,
    EnvironmentSampler,
    expect_actions,
    numbers,
)
from tasks.streams import GeneratedTasks

__all__ = ["Arms", "Bandit"]


@dataclass(frozen=True, eq=False)
class Arms(Environment):
    """An episode is one pull: r = 1 with probability means[a], 0 otherwise.

    means: (arms,) in [0, 1]. There is nothing to see: observations are ones, (episodes, 1). Actions are arms,
    (episodes,) int64.
    """

    rank = 1

    means: torch.Tensor
    episodes: int
    horizon: int = 1

    @property
    def choices(self) -> int:
        return self.means.shape[-1]

    def start(self) -> torch.Tensor:
        return self.means.new_ones(self.episodes, 1)

    def observe(self, state: torch.Tensor) -> torch.Tensor:
        return state

    def step(self, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        expect_actions(self, action, (), "an arm")
        means = self.means[action]
        return state, (torch.rand_like(means) < means).to(means.dtype)


class Bandit(GeneratedTasks):
    """Bernoulli arms with means uniform in [0, 1], in pairs that depend on each other; a task is one set of means.

    The arms 2i and 2i + 1 pay with probabilities p and 1 − p, so that each pull tells of two arms: there is something
    to be learned that all tasks share. Wang et al. 2016, arXiv:1611.05763, section 3.1.1, has one such pair ("dependent
    uniform"). There is no data: the parts differ in the stream that their means are drawn from.

    Args:
        arms: ≥ 2, an even number.
    Raises: ValueError naming the argument.
    """

    name = "bandit"

    def __init__(self, *, arms: int = 10) -> None:
        if not isinstance(arms, int) or arms < 2 or arms % 2:
            raise ValueError(
                f"Bandit: arms={arms!r} must be an even number of 2 or more: arms come in pairs."
            )
        self.arms = arms
        self.split = f"arms={self.arms}"

    def sampler(
        self, part: str, *, shots: int, queries: int, seed: int, device: str | torch.device = "cpu"
    ) -> EnvironmentSampler:
        """The tasks of a part ("train", "val" or "test"), of shots and queries pulls; see EnvironmentSampler."""
        return EnvironmentSampler(self, part, shots=shots, queries=queries, seed=seed, device=device)

    def environment(self, keys: torch.Tensor, episodes: int) -> Arms:
        means = numbers(keys, self.arms // 2)
        return Arms(torch.stack([means, 1 - means], dim=-1).flatten(1), episodes)

    @property
    def chance(self) -> float:
        """The mean return of pulling any arm."""
        return 0.5
