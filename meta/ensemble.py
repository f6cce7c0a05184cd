"""Several states of one run that predict together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meta.learner import MetaLearner, Predictor, Step, TaskResult, as_predictor
from neo import pytree
from neo.typing import PyTree

__all__ = ["Ensemble", "EnsemblePredictor", "mean_prediction"]


class Ensemble(MetaLearner):
    """A learner at several states of its training, each adapted alone: the prediction is the mean of theirs.

    Of classifiers that is the mean of the logits. Antoniou et al. 2019, arXiv:1810.09502, section 5, report MAML++'s
    test numbers so, with the five best states by validation; their code averages logits as well.

    Meta-parameters and state: lists, one entry a member.

    Args:
        learner: of all members.
        iterations: the meta-updates that each member has behind it.
    Cost: of every member, one after the other.
    """

    def __init__(self, learner: MetaLearner, iterations: Sequence[int]) -> None:
        self.learner, self.problem, self.iterations = learner, learner.problem, list(iterations)
        self.autocast = learner.autocast

    def init_state(self, params: PyTree) -> PyTree:
        members: Any = params
        return [self.learner.init_state(member) for member in members]

    def adapt(self, params: PyTree, support: Any, step: Step) -> Predictor:
        members: Any = params
        states: Any = step.state
        return EnsemblePredictor(
            [
                as_predictor(
                    self.learner.adapt(member, support, step.replace(state=state, iteration=iteration))
                )
                for member, state, iteration in zip(members, states, self.iterations, strict=True)
            ]
        )

    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        raise NotImplementedError("Ensemble: its members were trained alone; it is for evaluation.")


class EnsemblePredictor(Predictor):
    """The mean of the members' predictions; after 0, 1, ... inner steps too, where all members have as many."""

    def __init__(self, members: Sequence[Predictor]) -> None:
        self.members = tuple(members)
        known = all(member.params is not None for member in self.members)
        lengths = {len(member.trajectory or ()) for member in self.members}
        stages = [
            EnsemblePredictor(stage) if len(stage) > 1 else stage[0]
            for stage in zip(*(member.trajectory or () for member in self.members), strict=False)
        ]
        super().__init__(
            lambda x: mean_prediction([member(x) for member in self.members]),
            [member.params for member in self.members] if known else None,
            stages if stages and len(lengths) == 1 else None,
        )


def mean_prediction(predictions: Sequence[Any]) -> Any:
    """The mean of predictions: tensors, or pytrees of them."""
    return pytree.tree_map(lambda *members: sum(members) / len(members), *predictions)
