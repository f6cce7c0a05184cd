"""Meta-reinforcement learning: a problem whose data the policy itself brings about."""

from meta.reinforcement.policies import categorical, gaussian
from meta.reinforcement.policy_gradient import PolicyGradient

__all__ = ["PolicyGradient", "categorical", "gaussian"]
