"""Functional layers and models: `model.init(seed=...) -> params`, `model(params, x)`."""

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
]
