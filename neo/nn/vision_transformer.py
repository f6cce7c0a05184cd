"""A vision transformer for the small images of few-shot learning."""

from __future__ import annotations

from typing import Any

import torch

from neo.nn import init
from neo.nn.activations import GELU
from neo.nn.attention import MultiheadAttention
from neo.nn.containers import Residual
from neo.nn.layers import Conv2d, Lambda, Linear
from neo.nn.module import Module, Sequential
from neo.nn.normalization import LayerNorm

__all__ = ["ViT"]

MOST_PATCHES = 8  # along a side, where the size of a patch is left open


class Tokens(Module):
    """(n, features, rows, columns) → (n, places, features) + positions (places, features), learned: N(0, 0.02²).

    token: one more place, the first, with a vector of its own (0 to begin with) that stands for the image.
    """

    def __init__(self, places: int, features: int, token: bool):
        self.places, self.features, self.token = places, features, token

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        positions = init.normal((self.places + self.token, self.features), generator, std=0.02)
        return {"positions": positions} | ({"token": init.zeros((self.features,))} if self.token else {})

    def __call__(self, params: Any, x: Any) -> Any:
        x = x.flatten(2).transpose(1, 2)
        if self.token:
            x = torch.cat([params["token"].expand(x.shape[0], 1, self.features), x], 1)
        return x + params["positions"]


class ViT(Sequential):
    """Patches as tokens, `depth` pre-norm transformer blocks, a linear head: x (n, channels, size, size) → (n, ways).

    x ← x + attention(norm(x)),  x ← x + W₂ gelu(W₁ norm(x)) in each block. Without the head it is an embedding:
    x → (n, width). Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1; the mean over tokens in place of a class
    token: Beyer, Zhai and Kolesnikov 2022, arXiv:2205.01580. No batch norm: no prediction sees the other images.

    Args:
        ways: classes of a task, the outputs of the head. None: no head.
        channels, size: of the images, size in pixels.
        patch: side of a patch in pixels, a divisor of size. None: the smallest that gives at most 8 a side, 4 for 28
            and 32 pixels, 12 for 84.
        width: features of a token, a multiple of heads.
        depth: blocks.
        heads: of each attention.
        mlp: W₁'s outputs as a multiple of width.
        pool: what the head sees: "mean" over the tokens, or a class "token".
    Params: patches.weight (width, channels, patch, patch), patches.bias, tokens.positions,
        block0.attention.body.norm.*, block0.attention.body.attention.in_proj_weight ..., block0.mlp.body.norm.*,
        block0.mlp.body.linear0.*, block0.mlp.body.linear1.*, ..., norm.*, head.weight, head.bias. W: Glorot uniform.
    Cost: 2.8 million parameters with the defaults.
    """

    def __init__(
        self,
        ways: int | None,
        channels: int = 3,
        size: int = 84,
        patch: int | None = None,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp: int = 4,
        pool: str = "mean",
    ):
        counts = {
            "channels": channels,
            "size": size,
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp": mlp,
        }
        if min(*counts.values(), 1 if ways is None else ways) < 1:
            said = ", ".join(f"{name}={count}" for name, count in {**counts, "ways": ways}.items())
            raise ValueError(f"ViT: sizes and counts must be at least 1, got {said}")
        if width % heads:
            raise ValueError(f"ViT: width={width} does not divide into heads={heads}")
        if pool not in ("mean", "token"):
            raise ValueError(f"ViT: pool must be one of 'mean', 'token', got {pool!r}")
        patch = _patch(size) if patch is None else patch
        if patch < 1 or size % patch or patch == size:
            raise ValueError(
                f"ViT: an image of {size} pixels does not divide into patches of {patch}; expected patch to be a "
                "divisor of size, less than size."
            )
        token = pool == "token"
        layers: list[tuple[str, Module]] = [
            ("patches", Conv2d(channels, width, patch, stride=patch)),
            ("tokens", Tokens((size // patch) ** 2, width, token)),
            *((f"block{i}", _block(width, heads, mlp)) for i in range(depth)),
            ("norm", LayerNorm(width)),
            ("features", Lambda((lambda x: x[:, 0]) if token else (lambda x: x.mean(1)))),
        ]
        super().__init__([*layers, *([] if ways is None else [("head", Linear(width, ways))])])


def _block(width: int, heads: int, mlp: int) -> Sequential:
    attention = Sequential([("norm", LayerNorm(width)), ("attention", MultiheadAttention(width, heads))])
    perceptron = Sequential(
        [
            ("norm", LayerNorm(width)),
            ("linear0", Linear(width, mlp * width)),
            ("gelu", GELU()),
            ("linear1", Linear(mlp * width, width)),
        ]
    )
    return Sequential([("attention", Residual(attention)), ("mlp", Residual(perceptron))])


def _patch(size: int) -> int:
    """The smallest divisor of size that gives at most MOST_PATCHES a side."""
    return next(patch for patch in range(1, size + 1) if size % patch == 0 and size // patch <= MOST_PATCHES)
