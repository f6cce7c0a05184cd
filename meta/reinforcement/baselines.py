"""What is subtracted from returns so that a policy gradient varies less."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tasks import Episodes

__all__ = ["BASELINES", "linear", "mean", "none"]


def none(episodes: Episodes, returns: torch.Tensor) -> torch.Tensor:
    """0, for returns to go (steps, episodes)."""
    return torch.zeros_like(returns)


def mean(episodes: Episodes, returns: torch.Tensor) -> torch.Tensor:
    """Of each step, the mean over the *other* episodes, which keeps the gradient unbiased. Needs two episodes or more.

    Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!"
    """
    count = returns.shape[1]
    if count < 2:
        raise ValueError(
            f"baseline='mean' is the mean over the other episodes, and there is {count}; choose task.shots and "
            "task.queries ≥ 2, or baseline='none'."
        )
    return (returns.sum(1, keepdim=True) - returns) / (count - 1)


def linear(episodes: Episodes, returns: torch.Tensor, ridge: float = 1e-5) -> torch.Tensor:
    """A ridge regression of the returns to go on s, s², t/100, (t/100)², (t/100)³ and 1, s being the observation.

    Duan et al. 2016, arXiv:1604.06778, supplementary material, section 2. Fitted to the episodes at hand, so that the
    gradient has a bias of the order of 1/episodes. In float64.
    """
    seen = episodes.observations.flatten(2).double()
    time = (torch.arange(len(seen), device=seen.device, dtype=seen.dtype) / 100)[:, None, None]
    time = time.expand(*seen.shape[:2], 1)
    features = torch.cat([seen, seen**2, time, time**2, time**3, torch.ones_like(time)], dim=-1).flatten(0, 1)
    normal = features.T @ features + ridge * torch.eye(
        features.shape[1], device=seen.device, dtype=seen.dtype
    )
    weights = torch.linalg.solve(normal, features.T @ returns.flatten().double())
    return (features @ weights).to(returns.dtype).reshape(returns.shape)


BASELINES: dict[str, Callable[[Episodes, torch.Tensor], torch.Tensor]] = {
    "none": none,
    "mean": mean,
    "linear": linear,
}
