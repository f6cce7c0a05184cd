"""Estimates of MAML's meta-gradient from episodes against the exact one, where it can be had: for docs/meta-rl.md.

    python -m benchmarks.policy_gradients [--repeats 400] [--episodes 20 200 2000] [--horizon 5]

A Markov decision process of few states, whose expected return J(θ) is a sum over states, so that the meta-gradient
∇_θ J(θ + α ∇J(θ)) is had exactly. Beside it, by each surrogate, the mean of many estimates by meta.MAML, each from so
many support and so many query episodes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import meta
import neo
from meta.reinforcement import categorical
from meta.reinforcement.surrogates import SURROGATES
from neo import LiteTensor
from tasks import Environment, Task

__all__ = ["TabularMDP", "estimates", "exact_meta_gradient", "expected_return", "main", "mdp", "table"]

STATES, ACTIONS, HORIZON, ALPHA = 3, 2, 5, 1.0


@dataclass(frozen=True, eq=False)
class TabularMDP(Environment):
    """From state 0 on: rewards (states, actions), and transitions (states, actions, states), which sum to 1."""

    rank = 3

    transitions: torch.Tensor
    rewards: torch.Tensor
    episodes: int
    horizon: int

    def start(self) -> torch.Tensor:
        return torch.zeros(self.episodes, dtype=torch.int64, device=self.rewards.device)

    def observe(self, state: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(state, len(self.rewards)).to(self.rewards.dtype)

    def step(self, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        following = torch.multinomial(self.transitions[state, action], 1).squeeze(1)
        return following, self.rewards[state, action]


def mdp(episodes: int, horizon: int = HORIZON, states: int = STATES, seed: int = 0) -> TabularMDP:
    """Of random transitions and rewards, in float64."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.rand, generator=generator, dtype=torch.float64)
    transitions, rewards = draw(states, ACTIONS, states) ** 2, draw(states, ACTIONS)
    return TabularMDP(transitions / transitions.sum(-1, keepdim=True), rewards, episodes, horizon)


def expected_return(world: TabularMDP, logits: Any) -> Any:
    """J(θ) of the policy softmax(logits[state]), from the distribution over states after each step."""
    policy = torch.softmax(logits, dim=-1)
    occupied = torch.eye(len(world.rewards), dtype=world.rewards.dtype)[0]
    total: Any = 0.0
    for _ in range(world.horizon):
        chosen = occupied[:, None] * policy
        total = total + (chosen * world.rewards).sum()
        occupied = (chosen[:, :, None] * world.transitions).sum((0, 1))
    return total


def policy_model(params: Any, x: Any) -> Any:
    """A table: of a state as a one-hot vector, the logits of its actions."""
    return x @ params["logits"]


def start(world: TabularMDP, seed: int = 1) -> torch.Tensor:
    """θ: logits (states, actions), away from the uniform policy and from the best one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(world.rewards.shape, generator=generator, dtype=world.rewards.dtype)


def exact_meta_gradient(world: TabularMDP, theta: torch.Tensor, alpha: float = ALPHA) -> torch.Tensor:
    """Of the loss −J(θ + α ∇J(θ))."""

    def loss(logits: Any) -> Any:
        inner = neo.grad(partial(expected_return, world), argnums=0)(logits)
        return -expected_return(world, logits + alpha * inner)

    found: Any = neo.grad(loss, argnums=0)(LiteTensor(theta))
    return found.data


def estimates(
    world: TabularMDP,
    theta: torch.Tensor,
    surrogate: str,
    repeats: int,
    *,
    alpha: float = ALPHA,
    first_order: bool = False,
    baseline: str = "mean",
) -> torch.Tensor:
    """(repeats, parameters): meta-gradients by meta.MAML, each from new episodes."""
    problem = meta.PolicyGradient(categorical, surrogate=surrogate, baseline=baseline)
    model: Any = policy_model
    learner = meta.MAML(model, inner_lr=alpha, problem=problem, first_order=first_order)
    task, params = Task(world, world), {"logits": LiteTensor(theta)}
    found = []
    for seed in range(repeats):
        with neo.nn.draws(seed):
            gradient: Any = learner.task_gradient(params, task, meta.Step(seed=seed)).gradient
        found.append(gradient["logits"].data.flatten())
    return torch.stack(found)


def table(episodes: list[int], repeats: int, horizon: int = HORIZON) -> str:
    """Markdown: a row for each surrogate and number of episodes."""
    lines = [
        "| surrogate | episodes | bias, of the exact length | cosine of the mean "
        "| σ of one estimate, of the exact length | entries outside their interval |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    theta = start(mdp(1))
    exact = exact_meta_gradient(mdp(1, horizon), theta).flatten()
    for name in (*SURROGATES, "first order"):
        for count in episodes:
            first_order = name == "first order"
            found = estimates(
                mdp(count, horizon), theta, "naive" if first_order else name, repeats, first_order=first_order
            )
            mean, error = found.mean(0), found.std(0) / repeats**0.5
            bias, margin = (mean - exact).norm() / exact.norm(), 1.96 * error.norm() / exact.norm()
            cosine = torch.nn.functional.cosine_similarity(mean, exact, dim=0)
            outside = int(((mean - exact).abs() > 1.96 * error).sum())
            spread = found.std(0).norm() / exact.norm()
            lines.append(
                f"| {name} | {count} | {bias:.3f} ± {margin:.3f} | {cosine:.4f} | {spread:.2f} "
                f"| {outside} of {len(exact)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--episodes", nargs="+", type=int, default=[20, 200, 2000])
    parser.add_argument("--horizon", type=int, default=HORIZON, help="steps of an episode")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(table(given.episodes, given.repeats, given.horizon))


if __name__ == "__main__":
    main()
