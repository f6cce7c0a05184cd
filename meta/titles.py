"""What a run is called in its pictures: the algorithm, the model, the data, and the kind of task."""

from __future__ import annotations

from typing import Any

from meta.algorithms import ESMAML, MAML, R2D2, MAMLPlusPlus, MetaCurvature, MetaSGD, TNet
from meta.estimators import FirstOrder, Implicit
from meta.learner import MetaLearner

__all__ = ["run_title"]

# As their papers write them, where that is not the class's name.
WRITTEN = {
    ESMAML: "ES-MAML",
    MAMLPlusPlus: "MAML++",
    MetaSGD: "Meta-SGD",
    MetaCurvature: "Meta-Curvature",
    R2D2: "R2-D2",
    TNet: "T-Net",
}


def run_title(learner: MetaLearner, model: Any, dataset: str, task: str) -> str:
    """ "MAML++ (Conv4) on omniglot, 5-way 1-shot"

    Args:
        model: the node of the configuration that names it, if there is one; of a torch module, the module's name is
            said.
        task: the kind of task, as a sampler's title has it.
    """
    model = model or {}
    named = str(model.get("module") or model.get("_target_") or "").rpartition(".")[2]
    architecture = f" ({named})" if named and hasattr(learner, "model") else ""
    return f"{_algorithm(learner)}{architecture} on {dataset}, {task}"


def _algorithm(learner: MetaLearner) -> str:
    name = WRITTEN.get(type(learner), type(learner).__name__)
    estimator = getattr(learner, "estimator", None)
    if isinstance(estimator, FirstOrder):
        return "FOMAML" if type(learner) is MAML else f"first-order {name}"
    return "iMAML" if type(learner) is MAML and isinstance(estimator, Implicit) else name
