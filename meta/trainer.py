"""The outer loop: draw a meta-batch, take its meta-gradient, step the meta-parameters."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

import neo
from meta.algorithms.base import MetaGradient, MetaLearner
from meta.distributed import ALONE, Ranks
from meta.divergence import TrainingError, expect_finite_gradient, expect_finite_state
from meta.evaluate import Evaluation, Sampler
from neo.draws import part_of, source
from neo.guards import settle
from neo.optim import Optimizer
from neo.typing import PyTree

__all__ = ["Log", "State", "Trainer", "TrainingError"]


class State(NamedTuple):
    """All that a run is, between two steps: with it, and tasks that are a function of the step, a run continues."""

    step: int  # meta-updates taken
    params: PyTree  # the meta-parameters
    optimizer: Any  # the outer optimiser's state, a pytree


@dataclass(frozen=True)
class Log:
    """What one logged step has to say. metric: the name of the score, by which it is logged."""

    step: int
    loss: float
    score: float
    validation: Evaluation | None = None
    metric: str = "accuracy"

    def metrics(self) -> dict[str, float]:
        """As a flat dict: train/loss, train/<metric>, and val/... where validation ran."""
        val = self.validation
        return {"train/loss": self.loss, f"train/{self.metric}": self.score} | (
            {}
            if val is None
            else {"val/loss": val.loss, f"val/{self.metric}": val.mean, "val/ci95": val.ci95}
        )


class Trainer:
    """θ ← step(θ, meta-gradient of the meta-batch of this step), `iterations` times; Finn et al. 2017, Algorithm 2.

    Knows nothing of which algorithm, model or tasks it runs. Step s (from 1) takes the tasks of iteration s − 1, slots
    0 to meta_batch − 1, so that a state and its sampler determine all that follows; with a random model, inside
    `with neo.nn.draws(seed):`, the seed does too, from which each task of each step has its own.

    Args:
        learner: supplies the meta-gradient.
        optimizer: a neo.optim pair, for the meta-parameters.
        iterations: meta-updates in all, ≥ 1.
        meta_batch: tasks of one meta-update, ≥ 1.
        log_every: steps between two logs, ≥ 1; the last step is logged too.
        checkpoint_every: steps between two checkpoints, ≥ 1; the last state is kept too.
        val_every: steps between two validations, ≥ 0; 0 for none. Validation runs with the first log that is due at
            or after each multiple, and with the last.
        val_tasks: tasks of each validation, ≥ 1, the same every time.
        keep: checkpoints kept besides the best by validation, ≥ 1.
        capture: on a GPU, record the meta-gradient once as a CUDA graph and replay it, see neo.capture; elsewhere this
            changes nothing. It keeps the memory of one meta-batch. Not yet run on a GPU.
    Raises: ValueError naming the argument.
    """

    ranks: Ranks = ALONE  # the processes that share each meta-batch; changes time, never the result

    def __init__(
        self,
        learner: MetaLearner,
        optimizer: Optimizer,
        *,
        iterations: int,
        meta_batch: int,
        log_every: int = 10,
        checkpoint_every: int = 100,
        val_every: int = 100,
        val_tasks: int = 100,
        keep: int = 3,
        capture: bool = False,
    ) -> None:
        self.learner, self.optimizer = learner, optimizer
        self.capture = capture
        self.iterations = _at_least(1, "iterations", iterations)
        self.meta_batch = _at_least(1, "meta_batch", meta_batch)
        self.log_every = _at_least(1, "log_every", log_every)
        self.checkpoint_every = _at_least(1, "checkpoint_every", checkpoint_every)
        self.val_every = _at_least(0, "val_every", val_every)
        self.val_tasks = _at_least(1, "val_tasks", val_tasks)
        self.keep = _at_least(1, "keep", keep)

    def start(self, seed: int, device: str | torch.device = "cpu") -> State:
        """The state before the first step: a pure function of seed."""
        params = self.learner.init(seed, device)
        return State(0, params, self.optimizer.init(params))

    def steps(self, sampler: Sampler, state: State) -> Iterator[tuple[State, MetaGradient]]:
        """Each further state, with the meta-gradient that led there; nothing is checked or waited for."""
        of_tasks = self.learner.meta_gradient
        if self.capture:  # the optimiser stays outside: its state counts steps in Python
            of_tasks = neo.capture(of_tasks)
        for step in range(state.step + 1, self.iterations + 1):
            with part_of(source(), step - 1):
                gradient = self.ranks.meta_gradient(
                    of_tasks, state.params, sampler, step - 1, self.meta_batch
                )
            params, inner = self.optimizer.step(state.params, gradient.gradient, state.optimizer)
            state = State(step, params, inner)
            yield state, gradient

    def fit(
        self,
        sampler: Sampler,
        start: State,
        *,
        validate: Callable[[PyTree], Evaluation] | None = None,
        log: Callable[[Log], None] = lambda line: None,
        checkpoint: Callable[[State, Evaluation | None], None] = lambda state, validation: None,
        tick: Callable[[], None] = lambda: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> State:
        """Train to the end, or until told to stop, and give the last state.

        Args:
            start: what self.start(...) gives, or the state of a checkpoint.
            validate: meta-parameters → their results on held-out tasks; None for no validation.
            log: called with every log that is due.
            checkpoint: called after log, with the state where one is due or validation has just run.
            tick: called after every step.
            stop: asked after every step whether to end here, before the last one.
        Raises: TrainingError at a loss or a gradient that is NaN or infinite: in the very step on the CPU, on a GPU at
            the next log, because looking at every number would stop the GPU at every step. No state that is not
            finite is ever given to validate or checkpoint, or returned.
        """
        state = before = start
        unseen: list[tuple[int, PyTree, MetaGradient]] = []
        for state, gradient in self.steps(sampler, start):
            last = state.step == self.iterations
            due = last or state.step % self.log_every == 0
            kept = last or state.step % self.checkpoint_every == 0
            unseen.append((state.step, before.params, gradient))
            before = state
            if due or kept or gradient.loss.device.type == "cpu":
                self._expect_finite(unseen, sampler)
            if due or kept:
                expect_finite_state(*state)
            validation = None
            if due:
                if validate is not None and self._validates(state.step):
                    validation = validate(state.params)
                settle()
                loss, score = float(gradient.loss.mean()), float(gradient.score.mean())
                log(Log(state.step, loss, score, validation, self.learner.objective.metric.name))
            if kept or validation is not None:
                checkpoint(state, validation)
            tick()
            if stop():
                self._expect_finite(unseen, sampler)
                expect_finite_state(*state)
                break
        return state

    def _expect_finite(self, unseen: list[tuple[int, PyTree, MetaGradient]], sampler: Sampler) -> None:
        """Look at the steps that nobody has looked at: number, meta-parameters before, meta-gradient."""
        for step, params, gradient in unseen:
            expect_finite_gradient(step, gradient, self.learner, params, sampler)
        unseen.clear()

    def _validates(self, step: int) -> bool:
        """Whether a multiple of val_every lies behind the log before this one, up to here."""
        if self.val_every == 0:
            return False
        before = (step - 1) // self.log_every * self.log_every
        return step == self.iterations or step // self.val_every > before // self.val_every


def _at_least(least: int, name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"Trainer: {name}={value!r} must be an integer.") from None
    if number < least:
        raise ValueError(f"Trainer: {name}={value} is too small; choose trainer.{name} ≥ {least}.")
    return number
