"""A small encoder of sequences of tokens: embeddings, transformer blocks where asked for, and their mean."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.nn import init
from neo.nn.attention import MultiheadAttention
from neo.nn.embedding import Embedding
from neo.nn.layers import Linear
from neo.nn.module import Module
from neo.nn.normalization import LayerNorm
from neo.typing import Params

__all__ = ["TokenEncoder"]

PADDING, UNKNOWN = 0, 1


class TokenEncoder(Module):
    """x (n, length) integers, 0 where there is no token, at least one token a row → logits (n, ways).

    Each token's vector, with blocks > 0 and its place's added, through `blocks` pre-norm transformer blocks (Vaswani et
    al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745), the mean over the tokens of a row, a hidden layer
    with ReLU, and a linear head. Padding takes part in nothing.

    Args:
        vocabulary: tokens that there are, from 0.
        ways: outputs; None: no head, the outputs are the hidden layer's (n, hidden).
        length: places of a row, of use where blocks > 0.
        size: of the vectors; with blocks, a multiple of heads.
        hidden: units of the hidden layer, and of those in the blocks.
    Params: embedding.weight (rows 0 and 1, of padding and unknown words, begin at 0), places.weight, block<i>...,
        hidden, head.
    Raises: ValueError for sizes below 1, and for rows longer than `length` where blocks > 0.
    """

    def __init__(
        self,
        vocabulary: int,
        ways: int | None,
        length: int = 64,
        size: int = 64,
        hidden: int = 64,
        blocks: int = 0,
        heads: int = 4,
    ):
        if min(vocabulary, 1 if ways is None else ways, length, size, hidden, heads) < 1 or blocks < 0:
            raise ValueError(
                f"TokenEncoder: vocabulary, ways, length, size, hidden and heads must be at least 1 and blocks at "
                f"least 0, got {vocabulary}, {ways}, {length}, {size}, {hidden}, {heads} and {blocks}"
            )
        self.length, self.blocks = length, blocks
        parts: dict[str, Module] = {"embedding": Embedding(vocabulary, size, padding=PADDING)}
        for i in range(blocks):
            parts |= {
                f"block{i}.norm1": LayerNorm(size),
                f"block{i}.attention": MultiheadAttention(size, heads),
                f"block{i}.norm2": LayerNorm(size),
                f"block{i}.linear1": Linear(size, hidden),
                f"block{i}.linear2": Linear(hidden, size),
            }
        parts["hidden"] = Linear(size, hidden)
        if ways is not None:
            parts["head"] = Linear(hidden, ways)
        self.parts, self.size = parts, size

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        drawn = {
            f"{name}.{key}": weight
            for name, part in self.parts.items()
            for key, weight in part.draw(generator).items()
        }
        drawn["embedding.weight"][UNKNOWN : UNKNOWN + 1] = 0.0
        if self.blocks:
            drawn["places.weight"] = init.normal((self.length, self.size), generator, std=0.1)
        return drawn

    def __call__(self, params: Params, x: Any) -> Any:
        def run(name: str, *inputs: Any, **options: Any) -> Any:
            own = {
                key.removeprefix(f"{name}."): one for key, one in params.items() if key.startswith(f"{name}.")
            }
            return self.parts[name](own, *inputs, **options)

        present = x != PADDING
        y = run("embedding", x)
        if self.blocks:
            if x.shape[1] > self.length:
                raise ValueError(
                    f"TokenEncoder: rows have {x.shape[1]} places, and length={self.length} of them have vectors"
                )
            y = y + params["places.weight"][: x.shape[1]]
        for block in (f"block{i}" for i in range(self.blocks)):
            y = y + run(f"{block}.attention", run(f"{block}.norm1", y), mask=present[:, None, None, :])
            inner = F.relu(run(f"{block}.linear1", run(f"{block}.norm2", y)))
            y = y + run(f"{block}.linear2", inner)
        weights = present.to(y.dtype)[..., None]
        y = F.relu(run("hidden", (y * weights).sum(1) / weights.sum(1)))
        return run("head", y) if "head" in self.parts else y
