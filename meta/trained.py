"""What a run has learned, ready to adapt to tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from meta.evaluate import adapted
from meta.learner import MetaLearner, Predictor
from meta.precision import cast
from meta.problems import Problem
from neo.typing import PyTree

__all__ = ["Trained"]


@dataclass(frozen=True)
class Trained:
    """A learner with the meta-parameters and the state that its training gave it.

    config: of the run, as OmegaConf has it; None outside of runs.
    scored_by: the problem of its tasks; None for the learner's own.
    iteration: meta-updates taken.
    evaluation_seed: of random draws in adaptation.
    dtype: of its tasks, to which what adapt and its predictor are given is cast; None: as it comes.
    """

    learner: MetaLearner
    params: PyTree
    state: PyTree = ()
    config: Any = None
    scored_by: Problem | None = None
    iteration: int = 0
    evaluation_seed: int = 0
    dtype: torch.dtype | None = None

    @property
    def problem(self) -> Problem:
        """Losses and score of its tasks."""
        return self.scored_by or self.learner.problem

    def adapt(self, support: Any, inner_steps: int | None = None, slot: int = 0) -> Predictor:
        """Learn from a support set, as an evaluation does: predictor(x) -> prediction.

        Args:
            inner_steps: None for the algorithm's own.
            slot: of the task in an evaluation, by which random functions draw.
        """
        if self.dtype is not None:
            support = cast(support, self.dtype)
        found = adapted(
            self.learner,
            self.params,
            support,
            state=self.state,
            iteration=self.iteration,
            slot=slot,
            seed=self.evaluation_seed,
            inner_steps=inner_steps,
        )
        return found if self.dtype is None else _casting(found, self.dtype)


def _casting(predictor: Predictor, dtype: torch.dtype) -> Predictor:
    """The predictor, of x in whatever dtype."""
    stages = predictor.trajectory
    trajectory = None if stages is None else [_casting(stage, dtype) for stage in stages]
    return Predictor(lambda x: predictor(cast(x, dtype)), predictor.params, trajectory)
