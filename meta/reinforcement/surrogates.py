"""Functions of log-probabilities whose derivatives estimate those of the expected return.

With log πₜ = log π_θ(aₜ | sₜ), advantages Aₜ (constants), and the magic box □(x) = exp(x − stop(x)), which is 1 and has
the derivative of x:

    dice    Σₜ (□(Σ_{t'≤t} log π_t') − □(Σ_{t'<t} log π_t')) Aₜ    right at every order
    lvc     Σₜ □(log πₜ) Aₜ                                         right at first order, at second within a step
    naive   Σₜ log πₜ Aₜ                                            right at first order

The gradient at θ is Σₜ ∇log πₜ Aₜ for all three. They differ where MAML differentiates that gradient once more, since
the trajectories were drawn by the policy that is differentiated. Of the Hessian of the expected return,

    E Σₜ Aₜ (∇²log πₜ + ∇log πₜ ∇log πₜᵀ + hₜ ∇log πₜᵀ + ∇log πₜ hₜᵀ),   hₜ = Σ_{t'<t} ∇log π_t',

naive has the first term alone, which is what plain double backward through a policy gradient gives; lvc has the first
two, and much less variance than dice, which has all. So lvc is exact where an episode is one step.

dice: Foerster et al. 2018, arXiv:1802.05098; with advantages as Farquhar, Whiteson and Foerster 2019,
arXiv:1909.10549. Summed by parts it is Σₜ □(Σ_{t'≤t} log π_t') γᵗ rₜ up to a constant where A is the return to go;
what is subtracted as a baseline has no expectation at any order. lvc: Rothfuss et al. 2019 (ProMP), arXiv:1810.06784,
section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import neo

__all__ = ["SURROGATES", "dice", "lvc", "naive"]


def dice(log_probs: Any, advantages: torch.Tensor) -> Any:
    """(steps, episodes) each → terms (steps, episodes), whose sum over steps is the surrogate."""
    until = torch.cumsum(log_probs, dim=0)
    return (_magic_box(until) - _magic_box(until - log_probs)) * advantages


def lvc(log_probs: Any, advantages: torch.Tensor) -> Any:
    """The same, of the low-variance curvature estimator."""
    return _magic_box(log_probs) * advantages


def naive(log_probs: Any, advantages: torch.Tensor) -> Any:
    """The same, of REINFORCE: for first-order meta-gradients, and to compare with."""
    return log_probs * advantages


SURROGATES: dict[str, Callable[[Any, torch.Tensor], Any]] = {"dice": dice, "lvc": lvc, "naive": naive}


def _magic_box(x: Any) -> Any:
    return torch.exp(x - neo.stop_gradient(x))
