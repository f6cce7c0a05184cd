"""Reinforcement learning as a problem: the support and the query set are environments, in which the policy acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributions import Categorical, Distribution

import neo
from meta.problems import RETURN, Predict, Problem, constant
from meta.reinforcement.baselines import BASELINES
from meta.reinforcement.surrogates import SURROGATES
from neo.guards import require
from tasks import Environment, Episodes

__all__ = ["PolicyGradient"]

ROUNDING = (
    1e-2  # of the largest output: far above what a batch of another size makes of a sum, also in bfloat16
)


class PolicyGradient(Problem):
    """Maximise J(θ) = E Σₜ γᵗ rₜ over the episodes that the policy brings about: the loss is −J, estimated from them.

    Both sets are environments (tasks.Environment); each call of a loss runs new episodes in one, with actions drawn by
    the policy as it is then. So every inner step of MAML has trajectories of its own, drawn from meta.Step.seed, and
    the query set those of the adapted policy. The value of a loss is minus the mean discounted return; its derivatives
    are those of a surrogate, see meta.reinforcement.surrogates, with Aₜ = Σ_{k≥t} γᵏ rₖ − baseline. The score is the
    mean return, without discount.

    MAML with it is Algorithm 3 of Finn et al. 2017, arXiv:1703.03400. With "dice" its meta-gradient is that of
    J(θ + α ∇J(θ)), with a bias of the order of α/n from n support episodes: docs/meta-rl.md.

    Args:
        distribution: a model's output → torch.distributions.Distribution over actions: meta.reinforcement.categorical,
            or gaussian with its std.
        surrogate: "dice", "lvc" or "naive".
        baseline: "mean" (unbiased), "linear" (less variance where returns depend on states) or "none".
        discount: γ in (0, 1]. The gradient is that of the discounted return: γᵗ is in Aₜ, which much code leaves out.
        normalize: divide advantages by their standard deviation over the set, so that α means the same for rewards of
            any size. The gradient's expectation is then not ∇J, but about ∇J over that number.
    Raises: ValueError naming the argument; and for a policy whose output depends on other observations (batch norm) or
        on further draws (dropout): the probability that an action was drawn with is then not the one differentiated.
    Cost: of a loss, horizon predictions of `episodes` observations off the tape, and one of all of them on it.
    """

    metric = RETURN

    def __init__(
        self,
        distribution: Callable[[Any], Distribution],
        *,
        surrogate: str = "dice",
        baseline: str = "mean",
        discount: float = 1.0,
        normalize: bool = False,
    ) -> None:
        for name, value, known in (
            ("surrogate", surrogate, SURROGATES),
            ("baseline", baseline, BASELINES),
        ):
            if value not in known:
                raise ValueError(f"PolicyGradient: {name} must be one of {', '.join(known)}; got {value!r}")
        if not 0 < discount <= 1:
            raise ValueError(
                f"PolicyGradient: discount must be above 0 and not more than 1, got {discount!r}"
            )
        self.distribution, self.discount, self.normalize = distribution, discount, normalize
        self.surrogate, self.baseline = SURROGATES[surrogate], BASELINES[baseline]

    def support_loss(self, predict: Predict, support: Environment) -> Any:
        return self.query_loss(predict, support)[0]

    def query_loss(self, predict: Predict, query: Environment) -> tuple[Any, Any]:
        outputs: list[Any] = []
        episodes = self.run(predict, query, outputs.append)
        prediction = predict(episodes.observations.flatten(0, 1))
        _expect_same(constant(prediction), torch.cat(outputs))
        log_probs = self.distribution(prediction).log_prob(episodes.actions.flatten(0, 1))
        if tuple(log_probs.shape) != (episodes.rewards.numel(),):
            raise ValueError(
                "PolicyGradient: the distribution must give one log-probability an action, here "
                f"({episodes.rewards.numel()},); got {tuple(log_probs.shape)}. Wrap it in "
                "torch.distributions.Independent."
            )
        log_probs = log_probs.reshape(episodes.rewards.shape)

        discounts = self.discount ** torch.arange(len(log_probs), device=episodes.rewards.device)
        discounted = episodes.rewards * discounts[:, None].to(episodes.rewards.dtype)
        to_go = discounted.flip(0).cumsum(0).flip(0)
        advantages = to_go - self.baseline(episodes, to_go)
        if self.normalize:
            advantages = advantages / (advantages.std() + 1e-8)
        surrogate = self.surrogate(log_probs, advantages).sum(0).mean()
        value = discounted.sum(0).mean()
        return -(surrogate - neo.stop_gradient(surrogate) + value), episodes.rewards.sum(0).mean()

    def run(
        self, predict: Predict, environment: Environment, seen: Callable[[Any], None] = lambda output: None
    ) -> Episodes:
        """Episodes of the policy, a constant to every session; seen: told each output of the model."""

        def act(observation: torch.Tensor) -> torch.Tensor:
            output = constant(predict(observation))
            seen(output)
            distribution = self.distribution(output)
            if environment.choices is not None and isinstance(distribution, Categorical):
                _expect_choices(environment, output.shape[-1])
            return distribution.sample()

        with torch.no_grad():  # only the probability of what happens is differentiated
            return environment.run(act)


def _expect_choices(environment: Environment, outputs: int) -> None:
    if outputs != environment.choices:
        raise ValueError(
            f"PolicyGradient: the policy chooses among {outputs} actions, and {type(environment).__name__} has "
            f"{environment.choices}; give the model as many outputs (of model=mlp: the last of task.layers)."
        )


def _expect_same(at_once: torch.Tensor, step_by_step: torch.Tensor) -> None:
    """Raise ValueError unless an observation has the same prediction whatever is predicted beside it."""
    difference = (at_once - step_by_step).abs().max()
    require(
        difference <= ROUNDING * (1 + step_by_step.abs().max()),
        lambda: ValueError(
            "PolicyGradient: the policy's output for an observation must depend on parameters and that observation "
            "alone; it was another one in another batch. Use a model without batch norm, and without dropout in "
            "training."
        ),
    )
