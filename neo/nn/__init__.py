"""Functional layers and models: `model.init(seed=...) -> params`, `model(params, x)`."""

from neo.functions.drawing import draws
from neo.nn.from_torch import TorchModel, from_torch
from neo.nn.layers import (
    BatchNorm2d,
    BatchNormReLU,
    ChannelsLast,
    Conv2d,
    Flatten,
    Lambda,
    Linear,
    MaxPool2d,
    ReLU,
    SpatialMean,
)
from neo.nn.models import MLP, Conv4
from neo.nn.module import Module, Sequential

__all__ = [
    "MLP",
    "BatchNorm2d",
    "BatchNormReLU",
    "ChannelsLast",
    "Conv2d",
    "Conv4",
    "Flatten",
    "Lambda",
    "Linear",
    "MaxPool2d",
    "Module",
    "ReLU",
    "Sequential",
    "SpatialMean",
    "TorchModel",
    "draws",
    "from_torch",
]
