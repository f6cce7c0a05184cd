"""Meta-learning: algorithms, the meta-training loop, evaluation on unseen tasks."""

from meta.adapt import adapt
from meta.algorithms import MAML, MetaGradient, MetaLearner
from meta.evaluate import Evaluation, evaluate
from meta.objectives import Classification, Objective
from meta.trainer import State, Trainer, TrainingError

__all__ = [
    "MAML",
    "Classification",
    "Evaluation",
    "MetaGradient",
    "MetaLearner",
    "Objective",
    "State",
    "Trainer",
    "TrainingError",
    "adapt",
    "evaluate",
]
