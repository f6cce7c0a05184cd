"""Optimisers as pairs of pure functions of pytrees: differentiable, for the inner loop as well as the outer."""

from neo.optim.adagrad import AdagradState, adagrad
from neo.optim.adam import AdamState, adam, adamw
from neo.optim.base import Optimizer, Rate, Schedule, Scheduled
from neo.optim.clipping import clip_by_global_norm, clip_by_value, clipped, global_norm
from neo.optim.rmsprop import RMSpropState, rmsprop
from neo.optim.schedule import constant, cosine, exponential_decay, step_decay, warmup
from neo.optim.sgd import momentum, nesterov, sgd

__all__ = [
    "AdagradState",
    "AdamState",
    "Optimizer",
    "RMSpropState",
    "Rate",
    "Schedule",
    "Scheduled",
    "adagrad",
    "adam",
    "adamw",
    "clip_by_global_norm",
    "clip_by_value",
    "clipped",
    "constant",
    "cosine",
    "exponential_decay",
    "global_norm",
    "momentum",
    "nesterov",
    "rmsprop",
    "sgd",
    "step_decay",
    "warmup",
]
