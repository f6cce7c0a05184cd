"""One paper a file. The loop, logging, evaluation and checkpoints know MetaLearner alone."""

from meta.algorithms.base import MetaGradient, MetaLearner
from meta.algorithms.maml import MAML

__all__ = ["MAML", "MetaGradient", "MetaLearner"]
