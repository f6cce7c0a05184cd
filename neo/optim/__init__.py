"""Optimisers as pairs of pure functions of pytrees: differentiable, for the inner loop as well as the outer."""

from neo.optim.adadelta import AdadeltaState, adadelta
from neo.optim.adagrad import AdagradState, adagrad
from neo.optim.adam import AdamState, adam, adamw
from neo.optim.adamax import AdamaxState, adamax
from neo.optim.asgd import AsgdState, asgd
from neo.optim.base import Optimizer, Rate, Schedule, Scheduled
from neo.optim.clipping import clip_by_global_norm, clip_by_value, clipped, global_norm
from neo.optim.groups import grouped
from neo.optim.nadam import NadamState, nadam
from neo.optim.radam import radam
from neo.optim.rmsprop import RMSpropState, rmsprop
from neo.optim.rprop import RpropState, rprop
from neo.optim.schedule import constant, cosine, exponential_decay, step_decay, warmup, warmup_cosine
from neo.optim.sgd import MomentumState, momentum, nesterov, sgd

__all__ = [
    "AdadeltaState",
    "AdagradState",
    "AdamState",
    "AdamaxState",
    "AsgdState",
    "MomentumState",
    "NadamState",
    "Optimizer",
    "RMSpropState",
    "Rate",
    "RpropState",
    "Schedule",
    "Scheduled",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "asgd",
    "clip_by_global_norm",
    "clip_by_value",
    "clipped",
    "constant",
    "cosine",
    "exponential_decay",
    "global_norm",
    "grouped",
    "momentum",
    "nadam",
    "nesterov",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "step_decay",
    "warmup",
    "warmup_cosine",
]
