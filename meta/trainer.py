"""The outer loop: draw a meta-batch, take its meta-gradient, step the meta-parameters."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from meta.distributed import ALONE, Ranks
from meta.divergence import TrainingError, expect_finite_gradient, expect_finite_state
from meta.evaluate import Evaluation, Sampler
from meta.learner import MetaLearner
from meta.meta_batch import MetaBatch, MetaGradient
from meta.parallel import Workers
from meta.precision import cast
from meta.sizes import parse_size
from meta.xray import expect_unrolled, track
from neo.guards import settle
from neo.optim import Optimizer
from neo.typing import PyTree

__all__ = ["Log", "State", "Trainer", "TrainingError"]


class State(NamedTuple):
    """All that a run is, between two steps: with it, and tasks that are a function of the step, a run continues."""

    step: int  # meta-updates taken
    params: PyTree  # the meta-parameters
    optimizer: Any  # the outer optimiser's state, a pytree
    state: PyTree = ()  # what the learner carries from step to step


@dataclass(frozen=True)
class Log:
    """What one logged step has to say.

    metric: the name of the score, by which it is logged.
    reported: what else the tasks report, means over the meta-batch.
    xray: what an X-ray of the meta-gradient found, where one was due: see meta.xray.tracked_metrics().
    """

    step: int
    loss: float
    score: float
    validation: Evaluation | None = None
    metric: str = "accuracy"
    reported: Mapping[str, float] = field(default_factory=dict)
    xray: Mapping[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """As a flat dict: train/loss, train/<metric>, train/<reported>, and val/..., xray/... where these ran."""
        val = self.validation
        trained = {"loss": self.loss, self.metric: self.score, **self.reported}
        validated = {} if val is None else {"loss": val.loss, self.metric: val.mean, "ci95": val.ci95}
        parts = {"train": trained, "val": validated, "xray": self.xray}
        return {f"{part}/{name}": value for part, numbers in parts.items() for name, value in numbers.items()}


class Trainer:
    """θ ← step(θ, meta-gradient of the meta-batch of this step), `iterations` times; Finn et al. 2017, Algorithm 2.

    Knows nothing of which algorithm, model or tasks it runs. Step s (from 1) takes the tasks of iteration s − 1, slots
    0 to accumulate · meta_batch − 1, and what is drawn at random in a task is drawn from the seed of its meta.Step, so
    that a state, its sampler and the run's seed determine all that follows.

    Args:
        learner: supplies each task's gradient.
        optimizer: a neo.optim pair, for the meta-parameters.
        seed: of the run: of the initial meta-parameters and of the tasks' random draws.
        iterations: meta-updates in all, ≥ 1.
        meta_batch: tasks of one meta-update, ≥ 1.
        accumulate: meta-batches whose mean gradient an update takes, ≥ 1: bit for bit the update of one meta-batch that
            is as many times as large (with tasks in one call, up to rounding), in the memory of one.
        patience: validations in a row without a better score after which meta.Run ends, ≥ 0; 0: none do.
        log_every: steps between two logs, ≥ 1; the last step is logged too.
        checkpoint_every: steps between two checkpoints, ≥ 1; the last state is kept too.
        val_every: steps between two validations, ≥ 0; 0 for none. Validation runs with the first log that is due at
            or after each multiple, and with the last.
        val_tasks: tasks of each validation, ≥ 1, the same every time.
        keep: checkpoints kept, the last so many, ≥ 1.
        keep_best: checkpoints kept besides, the best so many by validation, ≥ 0.
        xray_every: steps between two X-rays of the meta-gradient (meta.xray), ≥ 0; 0: none. Due as validation is; what
            is found is logged as xray/..., and changes nothing else. The first of several ranks takes them alone, on
            the tasks of the next meta-update.
        xray_tasks: of each X-ray, ≥ 1. Each costs an exact and a first-order meta-gradient, whatever the estimator that
            trains; memory of the exact one.
        metric: the name of the score in logs; None for that of the learner's problem.
        workers: how the tasks of a meta-batch run side by side, see meta.parallel; None: one after the other.
        ranks: the processes that share each meta-batch; changes time, never the result.
        capture: record the kernel calls of a task, or of the whole with batched=true, once and replay them, see
            neo.capture: faster where Python is what takes the time, as with small networks, and to the same bits. An
            algorithm that reads numbers or its step's seed raises. On a GPU the meta-gradient is one CUDA graph, whose
            draws are torch's own; it keeps the memory of one meta-batch. Not yet run on a GPU.
        memory: the most that a run may take, "2GB". The trainer only looks whether it is an amount: scripts/train.py
            chooses by it before the run is built, as meta.planning.settled does.
        dtype: of the meta-parameters, and so of the carried state and the optimiser's; None: as the learner draws them.
    Raises: ValueError naming the argument.
    """

    def __init__(
        self,
        learner: MetaLearner,
        optimizer: Optimizer,
        *,
        iterations: int,
        meta_batch: int,
        seed: int = 0,
        log_every: int = 10,
        checkpoint_every: int = 100,
        val_every: int = 100,
        val_tasks: int = 100,
        accumulate: int = 1,
        patience: int = 0,
        xray_every: int = 0,
        xray_tasks: int = 8,
        keep: int = 3,
        keep_best: int = 5,
        metric: str | None = None,
        workers: Workers | None = None,
        ranks: Ranks = ALONE,
        capture: bool = False,
        memory: str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.memory = None if memory is None else parse_size(memory, "trainer.memory")
        self.learner, self.optimizer, self.seed = learner, optimizer, seed
        self.metric = metric or learner.problem.metric.name
        self.workers, self.ranks, self.capture, self.dtype = workers, ranks, capture, dtype
        self.iterations = _at_least(1, "iterations", iterations)
        self.meta_batch = _at_least(1, "meta_batch", meta_batch)
        self.accumulate = _at_least(1, "accumulate", accumulate)
        self.log_every = _at_least(1, "log_every", log_every)
        self.checkpoint_every = _at_least(1, "checkpoint_every", checkpoint_every)
        self.val_every = _at_least(0, "val_every", val_every)
        self.val_tasks = _at_least(1, "val_tasks", val_tasks)
        self.patience = _at_least(0, "patience", patience)
        if self.patience and not self.val_every:
            raise ValueError(
                f"Trainer: patience={patience} counts validations, and val_every=0 leaves none; choose "
                "trainer.val_every ≥ 1, or trainer.patience=0."
            )
        self.xray_every = _at_least(0, "xray_every", xray_every)
        self.xray_tasks = _at_least(1, "xray_tasks", xray_tasks)
        if self.xray_every and learner.autocast is not None:
            raise ValueError(
                f"Trainer: xray_every={xray_every} looks into the inner loop in float32, and the run computes in "
                f"{learner.autocast}; set trainer.xray_every=0, or precision=float32."
            )
        if self.xray_every:
            try:
                expect_unrolled(learner)
            except ValueError as error:
                raise ValueError(
                    f"Trainer: xray_every={xray_every}: {error} Or set trainer.xray_every=0."
                ) from None
        self.keep = _at_least(1, "keep", keep)
        self.keep_best = _at_least(0, "keep_best", keep_best)

    @property
    def tasks_per_update(self) -> int:
        return self.accumulate * self.meta_batch

    def start(self, device: str | torch.device = "cpu") -> State:
        """The state before the first step: a pure function of the seed."""
        params = self.learner.init(self.seed, device)
        if self.dtype is not None:
            params = cast(params, self.dtype)
        return State(0, params, self.optimizer.init(params), self.learner.init_state(params))

    def steps(
        self, sampler: Sampler, state: State, batch: MetaBatch | None = None
    ) -> Iterator[tuple[State, MetaGradient]]:
        """Each further state, with the meta-gradient that led there; nothing is checked or waited for.

        batch: what takes the meta-gradients; by default, what self.batch(state) gives.
        """
        batch = batch or self.batch(state)
        for step in range(state.step + 1, self.iterations + 1):
            found = batch.over_ranks(
                state.params,
                sampler,
                step - 1,
                self.meta_batch,
                state.state,
                self.ranks,
                self.accumulate,
            )
            params, inner = self.optimizer.step(state.params, found.gradient, state.optimizer)
            state = State(step, params, inner, state.state if found.state is None else found.state)
            yield state, found

    def batch(self, state: State) -> MetaBatch:
        """What takes the meta-gradients of steps from `state` on."""
        return MetaBatch(
            self.learner,
            state.state,
            seed=self.seed,
            workers=self.workers,
            reserved=("loss", self.metric, "ci95"),
            capture=self.capture,  # the optimiser stays outside: its state counts steps in Python
        )

    def fit(
        self,
        sampler: Sampler,
        start: State,
        *,
        validate: Callable[[State], Evaluation] | None = None,
        log: Callable[[Log], None] = lambda line: None,
        checkpoint: Callable[[State, Evaluation | None], None] = lambda state, validation: None,
        tick: Callable[[], None] = lambda: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> State:
        """Train to the end, or until told to stop, and give the last state.

        Args:
            start: what self.start(...) gives, or the state of a checkpoint.
            validate: a state → its results on held-out tasks; None for no validation.
            log: called with every log that is due.
            checkpoint: called after log, with the state where one is due or validation has just run.
            tick: called after every step.
            stop: asked after every step whether to end here, before the last one.
        Raises: TrainingError at a loss or a gradient that is NaN or infinite: in the very step on the CPU, on a GPU at
            the next log, because looking at every number would stop the GPU at every step. No state that is not
            finite is ever given to validate or checkpoint, or returned.
        """
        state = before = start
        unseen: list[tuple[State, MetaGradient]] = []
        batch = self.batch(start)
        for state, gradient in self.steps(sampler, start, batch):
            last = state.step == self.iterations
            due = last or state.step % self.log_every == 0
            kept = last or state.step % self.checkpoint_every == 0
            unseen.append((before, gradient))
            before = state
            if due or kept or gradient.loss.device.type == "cpu":
                self._expect_finite(unseen, sampler, batch)
            if due or kept:
                expect_finite_state(state.step, state.params, state.optimizer, state.state)
            validation = None
            if due:
                if validate is not None and self._falls_due(self.val_every, state.step):
                    validation = validate(state)
                found = self._xray(sampler, state)
                settle()
                loss, score = float(gradient.loss.mean()), float(gradient.score.mean())
                reported = {name: float(values.mean()) for name, values in gradient.metrics.items()}
                log(Log(state.step, loss, score, validation, self.metric, reported, found))
            if kept or validation is not None:
                checkpoint(state, validation)
            tick()
            if stop():
                self._expect_finite(unseen, sampler, batch)
                expect_finite_state(state.step, state.params, state.optimizer, state.state)
                break
        return state

    def _expect_finite(
        self, unseen: list[tuple[State, MetaGradient]], sampler: Sampler, batch: MetaBatch
    ) -> None:
        """Look at the steps that nobody has looked at: the state before each, and its meta-gradient."""
        for before, gradient in unseen:
            expect_finite_gradient(before.step + 1, gradient, batch, before.params, before.state, sampler)
        unseen.clear()

    def _xray(self, sampler: Sampler, state: State) -> dict[str, float]:
        if not self.ranks.first or not self._falls_due(self.xray_every, state.step):
            return {}
        return track(
            self.learner,
            state.params,
            sampler.sample(state.step, self.xray_tasks),
            iteration=state.step,
            seed=self.seed,
            state=state.state,
            workers=self.workers,
        )

    def _falls_due(self, every: int, step: int) -> bool:
        """Whether a multiple of `every` lies behind the log before this one, up to here; never for 0."""
        if every == 0:
            return False
        before = (step - 1) // self.log_every * self.log_every
        return step == self.iterations or step // every > before // every


def _at_least(least: int, name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"Trainer: {name}={value!r} must be an integer.") from None
    if number < least:
        raise ValueError(f"Trainer: {name}={value} is too small; choose trainer.{name} ≥ {least}.")
    return number
