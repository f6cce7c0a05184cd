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
from meta.load import load
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
