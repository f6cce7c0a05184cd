"""The seam between an algorithm and everything else: how to learn from a task, and how to learn to."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from meta.problems import Classification, Problem
from neo.nn import Module
from neo.typing import PyTree

__all__ = ["MetaLearner", "Predictor", "Step", "TaskResult", "Unsuited", "as_predictor", "seed_of"]

Predict = Callable[[Any], Any]


class Unsuited(ValueError):
    """What adapt and task_gradient raise for tasks that an algorithm has no use for, whatever its settings.

    Tasks without labels, say, where it learns classes. A run whose configuration brings the two together is refused
    before it begins, by the names of both.

    Args:
        owner: the algorithm.
        reason: what it needs, and what came; without a full stop.
    """

    def __init__(self, owner: str, reason: str) -> None:
        super().__init__(f"{owner}: {reason}. For such tasks take another algorithm.")
        self.reason = reason


@dataclass(frozen=True)
class Step:
    """Where in a run a task is met: all that an algorithm may depend on besides meta-parameters and the task.

    iteration: meta-updates taken so far, from 0.
    slot: of the task in its meta-batch (in an evaluation: among its tasks), from 0.
    seed: a pure function of the run's seed, iteration and slot. Random functions inside adapt and task_gradient draw
        from it already (neo.nn.draws); it is for generators of the algorithm's own.
    training: False in evaluations, where dropout and its kin drop nothing.
    inner_steps: what an evaluation asks for; None for the algorithm's own.
    state: what init_state or the last step's task_gradient gave, averaged over tasks.
    """

    iteration: int = 0
    slot: int = 0
    seed: int = 0
    training: bool = False
    inner_steps: int | None = None
    state: PyTree = ()

    def replace(self, **changes: Any) -> Step:
        """The same step with other values."""
        return replace(self, **changes)


@dataclass(frozen=True)
class TaskResult:
    """What task_gradient says of one task. Numbers may stay tensors on the device, so that nothing waits for them.

    gradient: like the meta-parameters: of the query loss, or what the outer optimiser is to take for it.
    loss: scalar, the query loss after adaptation.
    score: scalar, the mean score over the queries, say accuracy in [0, 1].
    state: like step.state; None: as it was. The next step has the mean over the tasks (of its floating-point leaves;
        the others must be the same for all tasks).
    metrics: further scalars by name; train/<name>, their mean over the tasks, reaches every log.
    """

    gradient: PyTree
    loss: Any
    score: Any
    state: PyTree = None
    metrics: Mapping[str, Any] = field(default_factory=dict)


class Predictor:
    """What adapt gives: predictor(x) -> prediction. Any callable will do in its place; this one says more.

    Args:
        fn: x -> prediction, on the tapes of open sessions.
        params: what adapted: any pytree of tensors, named in reports where it is not finite. None: nothing did.
        trajectory: the predictors after 0, 1, ... inner steps, where there are steps; the last predicts as fn does.
    """

    def __init__(
        self, fn: Predict, params: PyTree = None, trajectory: Iterable[Predict] | None = None
    ) -> None:
        self.fn, self.params = fn, params
        self.trajectory = None if trajectory is None else tuple(map(as_predictor, trajectory))

    def __call__(self, x: Any) -> Any:
        return self.fn(x)

    @classmethod
    def of_model(cls, model: Module, iterates: Iterable[PyTree]) -> Predictor:
        """x -> model(params, x), params being the last of those after 0, 1, ... inner steps, at least one."""
        predictors = [ModelPredictor(model, params) for params in iterates]
        last = predictors[-1]
        return ModelPredictor(model, last.params, predictors)


class ModelPredictor(Predictor):
    """Predicts by a model and its adapted parameters, at which an evaluation may look layer by layer."""

    def __init__(self, model: Module, params: PyTree, trajectory: Iterable[Predict] | None = None) -> None:
        super().__init__(lambda x: model(params, x), params, trajectory)
        self.model = model


class MetaLearner(ABC):
    """How to learn from a task, and how to learn to. Holds settings, never parameters.

    The meta-parameters are any pytree of floating-point LiteTensors; MAML's are the model's params. Where a run's
    configuration names a learner, it is given the model as `model` and the problem as `problem`, if it takes them.
    """

    model: Module  # whose init() serves, unless init is overridden; of learners that have one
    problem: Problem = Classification()  # losses and score
    autocast: torch.dtype | None = None  # under which torch.autocast it works on a task: meta.precision

    def init(self, seed: int, device: str | torch.device = "cpu") -> PyTree:
        """The meta-parameters to start from: a pure function of seed."""
        if not hasattr(self, "model"):
            raise NotImplementedError(
                f"{type(self).__name__} has no init, and no model whose parameters would be the meta-parameters; "
                "define init(self, seed, device), or set self.model."
            )
        return self.model.init(seed=seed, device=device)

    def init_state(self, params: PyTree) -> PyTree:
        """What is carried from step to step and never differentiated, before the first step: tensors and numbers."""
        return ()

    @abstractmethod
    def adapt(self, params: PyTree, support: Any, step: Step) -> Predict:
        """Learn from a support set: a Predictor, or any callable x -> prediction.

        Differentiable with respect to params by any session that is open around it, as far as the algorithm is.
        """

    @abstractmethod
    def task_gradient(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        """What one task says of the meta-parameters; the outer optimiser steps by the mean over a meta-batch."""


def as_predictor(found: Any) -> Predictor:
    """A callable as a Predictor. Raises: TypeError for what cannot be called."""
    if isinstance(found, Predictor):
        return found
    if not callable(found):
        raise TypeError(
            f"adapt must return a predictor, any callable x -> prediction; got {type(found).__name__}. Return "
            "meta.Predictor(lambda x: model(params, x), params), say."
        )
    return Predictor(found)


def seed_of(seed: int, iteration: int, slot: int) -> int:
    """Step.seed: in [0, 2**63), a hash of the three, so that neighbours have nothing in common."""
    digest = hashlib.blake2b(f"{seed} {iteration} {slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
