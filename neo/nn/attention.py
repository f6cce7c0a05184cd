"""Attention with several heads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.nn import init
from neo.nn.module import Module

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """softmax(Q Kᵀ / √d) V in `heads` subspaces of d = size / heads, then a linear map; Vaswani et al. 2017,
    arXiv:1706.03762, section 3.2.2. Weights as torch.nn.MultiheadAttention names them: in_proj_weight (3 size, size),
    in_proj_bias, out_proj.weight (size, size), out_proj.bias. W: Glorot uniform, b: 0.

    model(params, query, key=query, value=key, mask=None): query (n, length, size), key and value (n, times, size) →
    (n, length, size). The batch comes first, and no weights are returned. mask: bool, True takes part, or floats that
    are added to the scores; broadcast to (n, heads, length, times). causal: place i attends to places ≤ i alone.
    Cost: memory for n · heads · length · times scores.
    """

    def __init__(self, size: int, heads: int, bias: bool = True, causal: bool = False):
        if size % heads:
            raise ValueError(f"MultiheadAttention: size {size} does not divide into {heads} heads")
        self.size, self.heads, self.bias, self.causal = size, heads, bias, causal

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        weights = {
            "in_proj_weight": init.glorot_uniform((3 * self.size, self.size), generator),
            "out_proj.weight": init.glorot_uniform((self.size, self.size), generator),
        }
        if not self.bias:
            return weights
        return {
            **weights,
            "in_proj_bias": init.zeros((3 * self.size,)),
            "out_proj.bias": init.zeros((self.size,)),
        }

    def __call__(self, params: Any, query: Any, key: Any = None, value: Any = None, mask: Any = None) -> Any:
        key = query if key is None else key
        value = key if value is None else value
        weights = torch.chunk(params["in_proj_weight"], 3)
        biases = torch.chunk(params["in_proj_bias"], 3) if self.bias else (None,) * 3
        q, k, v = (
            self._by_head(F.linear(x, w, b))
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        joined = heads.transpose(1, 2).reshape((*query.shape[:2], self.size))
        return F.linear(joined, params["out_proj.weight"], params.get("out_proj.bias"))

    def _by_head(self, x: Any) -> Any:
        """(n, length, size) → (n, heads, length, size / heads)."""
        return x.reshape((*x.shape[:2], self.heads, self.size // self.heads)).transpose(1, 2)
