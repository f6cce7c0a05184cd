"""A model: a pure function of (params, x), which holds sizes and never a weight."""

from __future__ import annotations

from neo import nn

from my_project.swish import swish


class SwishNet(nn.Sequential):
    """Blocks of convolution (stride 2), batch norm and swish, then a linear head on the mean over space.

    x (n, channels, height, width) float32 → logits (n, ways).
    """

    def __init__(self, ways: int, channels: int = 3, hidden: int = 32, blocks: int = 3) -> None:
        layers: list[tuple[str, nn.Module]] = []
        for i in range(blocks):
            inputs = channels if i == 0 else hidden
            layers.append((f"conv{i}", nn.Conv2d(inputs, hidden, stride=2, padding=1)))
            layers.append((f"norm{i}", nn.BatchNorm2d(hidden)))
            layers.append((f"swish{i}", nn.Lambda(swish)))
        super().__init__([*layers, ("features", nn.SpatialMean()), ("head", nn.Linear(hidden, ways))])
