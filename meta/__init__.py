"""Meta-learning: algorithms, the meta-training loop, evaluation on unseen tasks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import meta._own_tasks  # noqa: F401 - first, for all that follows imports tasks
from meta.algorithms import (
    ANIL,
    BOIL,
    CAVIA,
    ESMAML,
    KFO,
    MAML,
    R2D2,
    Baseline,
    Distillation,
    Hyperparameters,
    LearnedLoss,
    LearnedOptimizer,
    MAMLPlusPlus,
    MatchingNet,
    MetaCurvature,
    MetaOptNet,
    MetaSGD,
    ProtoNet,
    RelationNet,
    Reptile,
    Reweighting,
    SharpMAML,
    TNet,
    TrainingRule,
)
from meta.estimators import EvolutionStrategies, FirstOrder, Implicit, Mixed, Reverse, Truncated
from meta.evaluate import Evaluation, evaluate
from meta.feature_learner import FeatureLearner
from meta.inner_loop import InnerLoop, adapt
from meta.learner import MetaLearner, Predictor, Step, TaskResult, Unsuited
from meta.meta_batch import MetaGradient, meta_gradient
from meta.online import OnlineLearner
from meta.parallel import Batched, Workers
from meta.physics_informed import PhysicsInformed
from meta.problems import (
    Classification,
    Metric,
    MultiLabel,
    PixelClassification,
    Problem,
    Regression,
    Supervised,
)
from meta.reinforcement import PolicyGradient
from meta.trained import Trained
from meta.trainer import State, Trainer, TrainingError

if TYPE_CHECKING:
    from meta.loading import load
    from meta.tables import metrics, results

__all__ = [
    "ANIL",
    "BOIL",
    "CAVIA",
    "ESMAML",
    "KFO",
    "MAML",
    "R2D2",
    "Baseline",
    "Batched",
    "Classification",
    "Distillation",
    "Evaluation",
    "EvolutionStrategies",
    "FeatureLearner",
    "FirstOrder",
    "Hyperparameters",
    "Implicit",
    "InnerLoop",
    "LearnedLoss",
    "LearnedOptimizer",
    "MAMLPlusPlus",
    "MatchingNet",
    "MetaCurvature",
    "MetaGradient",
    "MetaLearner",
    "MetaOptNet",
    "MetaSGD",
    "Metric",
    "Mixed",
    "MultiLabel",
    "OnlineLearner",
    "PhysicsInformed",
    "PixelClassification",
    "PolicyGradient",
    "Predictor",
    "Problem",
    "ProtoNet",
    "Regression",
    "RelationNet",
    "Reptile",
    "Reverse",
    "Reweighting",
    "SharpMAML",
    "State",
    "Step",
    "Supervised",
    "TNet",
    "TaskResult",
    "Trained",
    "Trainer",
    "TrainingError",
    "TrainingRule",
    "Truncated",
    "Unsuited",
    "Workers",
    "adapt",
    "evaluate",
    "load",
    "meta_gradient",
    "metrics",
    "results",
]

# What reads finished runs needs hydra and matplotlib: 50 MB and most of a second, of which training has no use.
_OF_RUNS = {"load": "meta.loading", "metrics": "meta.tables", "results": "meta.tables"}


def __getattr__(name: str) -> Any:
    if name not in _OF_RUNS:
        raise AttributeError(f"module 'meta' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_OF_RUNS[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_RUNS})
