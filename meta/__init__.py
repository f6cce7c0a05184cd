"""Meta-learning: algorithms, the meta-training loop, evaluation on unseen tasks."""

from meta.adapt import adapt
from meta.algorithms import ANIL, MAML, MetaGradient, MetaLearner, MetaSGD, Reptile
from meta.evaluate import Evaluation, evaluate
from meta.objectives import Classification, Metric, Objective, Regression
from meta.trainer import State, Trainer, TrainingError

__all__ = [
    "ANIL",
    "MAML",
    "Classification",
    "Evaluation",
    "MetaGradient",
    "MetaLearner",
    "MetaSGD",
    "Metric",
    "Objective",
    "Regression",
    "Reptile",
    "State",
    "Trainer",
    "TrainingError",
    "adapt",
    "evaluate",
]
