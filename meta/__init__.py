"""Meta-learning: algorithms, the meta-training loop, evaluation on unseen tasks."""

import meta._own_tasks  # noqa: F401 - first, for all that follows imports tasks
from meta.algorithms import (
    ANIL,
    BOIL,
    CAVIA,
    ESMAML,
    KFO,
    MAML,
    R2D2,
    MAMLPlusPlus,
    MatchingNet,
    MetaCurvature,
    MetaOptNet,
    MetaSGD,
    ProtoNet,
    RelationNet,
    Reptile,
    TNet,
)
from meta.estimators import EvolutionStrategies, FirstOrder, Implicit, Mixed, Reverse, Truncated
from meta.evaluate import Evaluation, evaluate
from meta.feature_learner import FeatureLearner
from meta.inner_loop import InnerLoop, adapt
from meta.learner import MetaLearner, Predictor, Step, TaskResult
from meta.load import load
from meta.meta_batch import MetaGradient, meta_gradient
from meta.online import OnlineLearner
from meta.parallel import Batched, Workers
from meta.problems import Classification, Metric, Problem, Regression, Supervised
from meta.tables import metrics, results
from meta.trained import Trained
from meta.trainer import State, Trainer, TrainingError

__all__ = [
    "ANIL",
    "BOIL",
    "CAVIA",
    "ESMAML",
    "KFO",
    "MAML",
    "R2D2",
    "Batched",
    "Classification",
    "Evaluation",
    "EvolutionStrategies",
    "FeatureLearner",
    "FirstOrder",
    "Implicit",
    "InnerLoop",
    "MAMLPlusPlus",
    "MatchingNet",
    "MetaCurvature",
    "MetaGradient",
    "MetaLearner",
    "MetaOptNet",
    "MetaSGD",
    "Metric",
    "Mixed",
    "OnlineLearner",
    "Predictor",
    "Problem",
    "ProtoNet",
    "Regression",
    "RelationNet",
    "Reptile",
    "Reverse",
    "State",
    "Step",
    "Supervised",
    "TNet",
    "TaskResult",
    "Trained",
    "Trainer",
    "TrainingError",
    "Truncated",
    "Workers",
    "adapt",
    "evaluate",
    "load",
    "meta_gradient",
    "metrics",
    "results",
]
