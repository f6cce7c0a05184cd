"""One paper a file. The loop, logging, evaluation and checkpoints know MetaLearner alone."""

from meta.algorithms.anil import ANIL
from meta.algorithms.baseline import Baseline
from meta.algorithms.boil import BOIL
from meta.algorithms.cavia import CAVIA
from meta.algorithms.distillation import Distillation
from meta.algorithms.es_maml import ESMAML
from meta.algorithms.hyperparameters import Hyperparameters
from meta.algorithms.kfo import KFO
from meta.algorithms.learned_loss import LearnedLoss
from meta.algorithms.learned_optimizer import LearnedOptimizer
from meta.algorithms.maml import MAML
from meta.algorithms.maml_plus_plus import MAMLPlusPlus
from meta.algorithms.matchingnet import MatchingNet
from meta.algorithms.meta_curvature import MetaCurvature
from meta.algorithms.meta_sgd import MetaSGD
from meta.algorithms.metaoptnet import MetaOptNet
from meta.algorithms.protonet import ProtoNet
from meta.algorithms.r2d2 import R2D2
from meta.algorithms.relationnet import RelationNet
from meta.algorithms.reptile import Reptile
from meta.algorithms.reweighting import Reweighting
from meta.algorithms.sharp_maml import SharpMAML
from meta.algorithms.tnet import TNet
from meta.algorithms.training_rule import TrainingRule

__all__ = [
    "ANIL",
    "BOIL",
    "CAVIA",
    "ESMAML",
    "KFO",
    "MAML",
    "R2D2",
    "Baseline",
    "Distillation",
    "Hyperparameters",
    "LearnedLoss",
    "LearnedOptimizer",
    "MAMLPlusPlus",
    "MatchingNet",
    "MetaCurvature",
    "MetaOptNet",
    "MetaSGD",
    "ProtoNet",
    "RelationNet",
    "Reptile",
    "Reweighting",
    "SharpMAML",
    "TNet",
    "TrainingRule",
]
