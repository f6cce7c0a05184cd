"""Distances between points: a pair, row by row, all against all."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neo.functions.extremes import vector_norm
from neo.functions.registry import implements


@implements(F.pairwise_distance, scalars=("p", "eps"))
def pairwise_distance(x, other, p=2.0, eps=1e-6, keepdim=False):
    """‖x − y + eps‖ₚ over the last dim, broadcast."""
    return vector_norm(x - other + eps, p, -1, keepdim)


@implements(torch.dist, scalars=("p",))
def dist(x, other, p=2):
    """‖x − y‖ₚ over all entries, broadcast."""
    return vector_norm(x - other, p)


@implements(torch.cdist, scalars=("p",))
def cdist(x, x2, p=2.0, compute_mode=None):
    """‖xᵢ − yⱼ‖ₚ for the rows of x (.., n, d) and of y (.., m, d) → (.., n, m). Gradient 0 where two rows meet.

    Cost: the differences are held, n m d numbers. compute_mode is torch's choice of kernel, and changes nothing here.
    """
    if x.ndim < 2 or x2.ndim < 2:
        raise RuntimeError(f"cdist: both should be at least two-dimensional, got {x.ndim}D and {x2.ndim}D")
    if x.shape[-1] != x2.shape[-1]:
        raise RuntimeError(
            f"cdist: X1 and X2 must have the same number of columns. X1: {x.shape[-1]} X2: {x2.shape[-1]}"
        )
    return vector_norm(x.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


@implements(F.pdist, scalars=("p",))
def pdist(x, p=2.0):
    """‖xᵢ − xⱼ‖ₚ for i < j, the rows of x (n, d), as a vector of n (n − 1) / 2. Gradient 0 where two rows meet."""
    if x.ndim != 2:
        raise RuntimeError(f"pdist: only supports 2D tensors, got: {x.ndim}D")
    first, second = torch.triu_indices(x.shape[0], x.shape[0], 1, device=x.device)
    return vector_norm(torch.index_select(x, 0, first) - torch.index_select(x, 0, second), p, -1)
