"""Networks as anybody writes them in torch: what Neo is given to convert, and what its peers run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["NETWORKS", "Network"]

WAYS = 5


class Network(NamedTuple):
    """build() → the module, with WAYS outputs (one for the sinusoid); shape: of one example; regression: no classes."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    regression: bool = False


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def conv4(filters: int, features: int, channels: int = 3) -> nn.Module:
    """Four blocks of convolution, batch norm, ReLU and 2x2 pooling, all of it flattened for the head."""
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Conv2d(filters if i else channels, filters, 3, padding=1), _norm(filters), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, WAYS))


class Residual12(nn.Module):
    """A block of ResNet-12: three convolutions, a 1x1 shortcut, leaky ReLU, pooling."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(outputs if i else inputs, outputs, 3, padding=1, bias=False) for i in range(3)
        )
        self.norms = nn.ModuleList(_norm(outputs) for _ in range(3))
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), _norm(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        for i in range(3):
            out = self.norms[i](self.convs[i](out))
            if i < 2:
                out = F.leaky_relu(out, 0.1)
        return F.max_pool2d(F.leaky_relu(out + self.shortcut(x), 0.1), 2)


def resnet12(*widths: int) -> nn.Module:
    """Oreshkin et al. 2018, arXiv:1805.10123; the usual widths are 64, 160, 320, 640."""
    blocks = [Residual12(a, b) for a, b in pairwise((3, *widths))]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], WAYS))


class Basic(nn.Module):
    """A block of ResNet-18 or of a wide ResNet's width: two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = _norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = _norm(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


def resnet18() -> nn.Module:
    """He et al. 2016, arXiv:1512.03385, as torchvision has it."""
    widths = (64, 64, 128, 256, 512)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), _norm(64), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    for i in range(4):
        layers += [Basic(widths[i], widths[i + 1], 2 if i else 1), Basic(widths[i + 1], widths[i + 1])]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, WAYS))


class Sine(nn.Module):
    """sin(30 x), as a SIREN has it: Sitzmann et al. 2020, arXiv:2006.09661."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(30 * x)


class Classifier(nn.Module):
    """A recurrent net, or a transformer, over a sequence; the last state, or the mean, leads to the classes."""

    def __init__(self, body: nn.Module, width: int, recurrent: bool):
        super().__init__()
        self.body, self.head, self.recurrent = body, nn.Linear(width, WAYS), recurrent

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: Any = self.body(x)
        return self.head(out[0][:, -1] if self.recurrent else out.mean(1))


def transformer() -> nn.Module:
    """Four layers of width 128, four heads, without dropout."""
    layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    return Classifier(nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), 128, False)


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


NETWORKS: dict[str, Network] = {
    "conv4_32": Network(lambda: conv4(32, 800), (3, 84, 84)),
    "conv4_64": Network(lambda: conv4(64, 1600), (3, 84, 84)),
    "conv4_small": Network(lambda: conv4(64, 256), (3, 32, 32)),
    "conv4_omniglot": Network(lambda: conv4(64, 64, 1), (1, 28, 28)),
    "resnet12": Network(lambda: resnet12(64, 160, 320, 640), (3, 32, 32)),
    "resnet12_narrow": Network(lambda: resnet12(32, 64, 128, 256), (3, 32, 32)),
    "resnet18": Network(resnet18, (3, 32, 32)),
    "wide_block": Network(
        lambda: nn.Sequential(Basic(160, 160), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, WAYS)),
        (160, 16, 16),
    ),
    "siren": Network(lambda: mlp(2, 64, 64, 1, activation=Sine), (2,), True),
    "lstm": Network(lambda: Classifier(nn.LSTM(32, 64, batch_first=True), 64, True), (24, 32)),
    "transformer": Network(transformer, (16, 128)),
    "sinusoid": Network(lambda: mlp(1, 40, 40, 1), (1,), True),
}
