"""Meta-curvature: MAML that learns how to transform its gradients. Park and Oliva 2019, arXiv:1902.03356."""

from __future__ import annotations

import math
from typing import Any

import torch

from meta.algorithms.learned_transform import LearnedTransform
from neo import LiteTensor

__all__ = ["MetaCurvature"]


class MetaCurvature(LearnedTransform):
    """Learn an initialisation θ, and for every mode of every weight a matrix that its gradient is multiplied by.

    θ′ = θ − α MC(∇L_support(θ)),  MC(G) = G ×₃ M_f ×₂ M_i ×₁ M_o     (section 3.1; ×ₙ: the product along mode n)

    for a convolution's gradient G (outputs, inputs, kernel positions); M_o and M_i for a linear layer's, M_o for a
    vector's. As one matrix on the flattened gradient it is M_o ⊗ M_i ⊗ M_f. All begin at the identity: at MAML.

    Meta-parameters: {"params": θ, "curvature": M}, M like what adapts of θ, with a list of matrices for each tensor.

    Args:
        others: as MAML has them; the optimiser of the inner loop gets the transformed gradient, clipped before.
    Cost: an inner step takes (outputs + inputs + positions) multiplications a weight more. Memory for meta-parameters:
        outputs² + inputs² + positions² a layer, which is much for a head on a wide feature map.
    """

    part = "curvature"

    def identity(self, leaf: Any) -> list[LiteTensor]:
        like = leaf.data
        return [LiteTensor(torch.eye(size, dtype=like.dtype, device=like.device)) for size in _modes(leaf)]

    def transformed(self, leaf: Any, tensors: list[Any]) -> Any:
        return _mode_products(leaf, tensors)


def _modes(tensor: Any) -> list[int]:
    """Sizes of a tensor's modes, those behind the second taken as one: outputs, inputs, positions of a kernel."""
    shape = list(tensor.shape)
    return shape if len(shape) < 3 else [*shape[:2], math.prod(shape[2:])]


def _mode_products(tensor: Any, matrices: list[Any]) -> Any:
    """The tensor multiplied by a matrix along each of its modes."""
    found = tensor.reshape(_modes(tensor))
    for mode, matrix in enumerate(matrices):
        found = (found.transpose(mode, -1) @ matrix.T).transpose(mode, -1)
    return found.reshape(tensor.shape)
