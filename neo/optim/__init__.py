"""Optimisers as pairs of pure functions of pytrees: differentiable, for the inner loop as well as the outer."""

from neo.optim.adam import AdamState, adam, adamw
from neo.optim.base import Optimizer, Rate
from neo.optim.sgd import momentum, sgd

__all__ = ["AdamState", "Optimizer", "Rate", "adam", "adamw", "momentum", "sgd"]
