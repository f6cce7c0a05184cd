"""Meta-learning: algorithms, the meta-training loop, evaluation on unseen tasks."""

from meta.adapt import adapt
from meta.algorithms import MAML, MetaGradient, MetaLearner
from meta.evaluate import Evaluation, evaluate
from meta.objectives import Classification, Objective

__all__ = ["MAML", "Classification", "Evaluation", "MetaGradient", "MetaLearner", "Objective", "adapt", "evaluate"]
