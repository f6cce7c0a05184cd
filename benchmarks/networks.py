"""Networks as anybody writes them in torch: what Neo is given to convert, and what its peers run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["NETWORKS", "Network", "build"]

WAYS = 5


class Network(NamedTuple):
    """A family of networks of any width, for examples of any size.

    build: (width, size) → the module; classifiers have WAYS outputs.
    shape: (width, size) → the shape of one example.
    learns: classes (cross-entropy), values (mean squared error), or an equation (see equation.py).
    """

    build: Callable[[int, int], nn.Module]
    shape: Callable[[int, int], tuple[int, ...]]
    learns: str = "classes"


def build(work: Mapping[str, Any]) -> nn.Module:
    """The network of a work's fields, drawn from torch's default generator."""
    return NETWORKS[work["network"]].build(work["width"], work["size"])


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, WAYS)]


def conv4(filters: int, image: int) -> nn.Module:
    """Four blocks of convolution, batch norm, ReLU and 2x2 pooling, all of it flattened for the head."""
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Conv2d(filters if i else 3, filters, 3, padding=1), _norm(filters), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(filters * (image // 16) ** 2, WAYS))


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


def resnet12(width: int) -> nn.Module:
    """Oreshkin et al. 2018, arXiv:1805.10123; of width 64, as usual: 64, 160, 320 and 640 channels."""
    widths = (3, width, 5 * width // 2, 5 * width, 10 * width)
    return nn.Sequential(*(Residual12(a, b) for a, b in pairwise(widths)), *_head(widths[-1]))


class Basic(nn.Module):
    """A block of ResNet-18: two 3x3 convolutions and a shortcut."""

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


def resnet18(width: int) -> nn.Module:
    """He et al. 2016, arXiv:1512.03385, as torchvision has it; of width 64, as usual."""
    widths = (width, width, 2 * width, 4 * width, 8 * width)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), _norm(width), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    for i in range(4):
        layers += [Basic(widths[i], widths[i + 1], 2 if i else 1), Basic(widths[i + 1], widths[i + 1])]
    return nn.Sequential(*layers, *_head(widths[-1]))


class Wide(nn.Module):
    """A block of a wide ResNet, norm and ReLU before convolution. Zagoruyko, Komodakis 2016, arXiv:1605.07146."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn1, self.bn2 = _norm(channels), _norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        return x + self.conv2(F.relu(self.bn2(out)))


class Sine(nn.Module):
    """sin(ω x) of a SIREN; ω = 1.5, as conf/task/pinn.yaml has it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(1.5 * x)


def siren(width: int) -> nn.Module:
    """Place and time → one value. Sitzmann et al. 2020, arXiv:2006.09661, with their bounds on the first weights."""
    model = mlp(2, width, width, 1, activation=Sine)
    for i, layer in enumerate(layer for layer in model if isinstance(layer, nn.Linear)):
        bound = math.sqrt(6 / width) / 1.5 if i else 0.5
        nn.init.uniform_(layer.weight, -bound, bound)
    return model


class Recurrent(nn.Module):
    """An LSTM over a sequence; its last state leads to the classes."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.body, self.head = nn.LSTM(inputs, width, batch_first=True), nn.Linear(width, WAYS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)[0][:, -1])


class Transformer(nn.Module):
    """Four layers of four heads, without dropout; the mean over the sequence leads to the classes."""

    def __init__(self, width: int):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.body, self.head = (
            nn.TransformerEncoder(layer, 4, enable_nested_tensor=False),
            nn.Linear(width, WAYS),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no second order
            return self.head(self.body(x).mean(1))


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


NETWORKS: dict[str, Network] = {
    "conv4": Network(conv4, lambda _, image: (3, image, image)),
    "resnet12": Network(lambda width, _: resnet12(width), lambda _, image: (3, image, image)),
    "resnet18": Network(lambda width, _: resnet18(width), lambda _, image: (3, image, image)),
    "wide_block": Network(
        lambda width, _: nn.Sequential(Wide(width), *_head(width)), lambda width, image: (width, image, image)
    ),
    "siren": Network(lambda width, _: siren(width), lambda _, places: (places,), "equation"),
    "lstm": Network(
        lambda width, _: Recurrent(width // 2, width), lambda width, length: (length, width // 2)
    ),
    "transformer": Network(lambda width, _: Transformer(width), lambda width, length: (length, width)),
    "sinusoid": Network(lambda width, _: mlp(1, width, width, 1), lambda _, inputs: (inputs,), "values"),
}
