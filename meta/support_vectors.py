"""Which variables of a support vector machine's dual lie at their bounds, found from numbers alone."""

from __future__ import annotations

import math

import torch

from neo.errors import ConvergenceError

__all__ = ["free_variables", "project_to_simplex"]

CHECKED_EVERY = 25  # iterations
MOST = 20_000  # iterations
TOLERANCE = 1e-9  # relative


def free_variables(kernel: torch.Tensor, classes: torch.Tensor, bound: float) -> torch.Tensor:
    """(examples, classes), True where a lies below its bound at the minimum of

        ½ Σ_k a_kᵀ K a_k − Σ a ∘ Y,  a ≤ C Y,  Σ_k a[n, k] = 0 for every n.

    In s = C Y − a that is a minimum over simplices, s ≥ 0 and Σ_k s[n, k] = C. Accelerated projected gradient (Beck and
    Teboulle 2009, with the restarts of O'Donoghue and Candès 2015, arXiv:1204.3982), until a step moves nothing. In
    float64 whatever is given. All of them for a kernel that is not finite, which has no minimum.

    Args:
        kernel: K (examples, examples), positive definite.
        classes: Y (examples, classes), one 1 a row.
        bound: C > 0.
    Raises: ConvergenceError after MOST iterations.
    """
    kernel, classes = kernel.double(), classes.double()
    if not bool(torch.isfinite(kernel).all()):
        return torch.ones_like(classes, dtype=torch.bool)
    step = 1 / torch.linalg.eigvalsh(kernel)[-1]

    def slope(s: torch.Tensor) -> torch.Tensor:
        return classes - kernel @ (bound * classes - s)

    s = ahead = torch.full_like(classes, bound / classes.shape[1])
    momentum = 1.0
    for iteration in range(MOST):
        following = project_to_simplex(ahead - step * slope(ahead), bound)
        if ((ahead - following) * (following - s)).sum() > 0:
            momentum = 1.0  # it has gone too far
        faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead, s = following + (momentum - 1) / faster * (following - s), following
        momentum = faster
        if iteration % CHECKED_EVERY == 0:
            still = project_to_simplex(s - step * slope(s), bound)
            if (still - s).abs().max() <= TOLERANCE * bound:
                return still > 0
    raise ConvergenceError(
        f"the support vector machine's bounds were not found in {MOST} iterations; features of norm "
        f"{kernel.diagonal().max().sqrt():.3g} are large against algorithm.ridge: raise it, or scale the features down."
    )


def project_to_simplex(rows: torch.Tensor, total: float) -> torch.Tensor:
    """The nearest rows with entries of 0 or more that add up to `total`; Duchi et al. 2008, ICML, figure 1."""
    largest_first = rows.sort(1, descending=True).values
    excess = (largest_first.cumsum(1) - total) / torch.arange(1, rows.shape[1] + 1).to(rows)
    count = (largest_first > excess).sum(1, keepdim=True)
    return (rows - excess.gather(1, count - 1)).clamp(min=0)
