"""Learned updates, Kronecker-factored. Arnold, Iqbal and Sha 2019, arXiv:1910.13603."""

from __future__ import annotations

from typing import Any

import torch

from meta.algorithms.learned_transform import LearnedTransform
from neo import LiteTensor

__all__ = ["KFO"]


class KFO(LearnedTransform):
    """Learn an initialisation θ, and an affine map that makes the update of each tensor of its gradient.

    θ′ = θ − α f(∇L_support(θ)),  f(G) = L G R + B

    for each tensor as a matrix G (n, m): rows are outputs, columns all else. On the flattened gradient that is one
    matrix L ⊗ Rᵀ, of n² + m² numbers in the place of (n m)². So what adapts is told apart from how it adapts, and a
    model that is too small to learn the latter by its own weights need not. L and R begin at the identity and B at
    zero: at MAML. It is the linear case of the paper's meta-optimiser, which may be a network of such layers.

    Meta-parameters: {"params": θ, "update": f}, f like what adapts of θ, with [L, R, B] for each tensor.

    Args:
        others: as MAML has them; the optimiser of the inner loop gets what f gives, the gradient clipped before.
    Cost: an inner step takes n + m multiplications a weight more. Memory for meta-parameters: n² + m² + n m a tensor.
    """

    part = "update"

    def identity(self, leaf: Any) -> list[LiteTensor]:
        like = _matrix(leaf.data)
        left, right = (torch.eye(size, dtype=like.dtype, device=like.device) for size in like.shape)
        return [LiteTensor(left), LiteTensor(right), LiteTensor(torch.zeros_like(like).contiguous())]

    def transformed(self, leaf: Any, tensors: list[Any]) -> Any:
        left, right, bias = tensors
        return (left @ _matrix(leaf) @ right + bias).reshape(leaf.shape)


def _matrix(tensor: Any) -> Any:
    """(outputs, all else); a vector as one column, a scalar as one entry."""
    return tensor.reshape(len(tensor) if tensor.ndim else 1, -1)
