"""Adapt on unseen tasks and measure: mean, 95% interval, every task's result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import torch

import neo
from meta import batch_norm as normalisation
from meta.distributed import ALONE, Ranks
from meta.learner import MetaLearner, Predictor, Step, as_predictor, seed_of
from meta.parallel import Workers
from meta.precision import computing
from meta.problems import Problem, constant
from neo import pytree
from neo.draws import SeededCalls, replay
from neo.typing import PyTree
from tasks import Task

__all__ = ["Evaluation", "Record", "adapted", "evaluate", "half_width", "query_losses"]


class Sampler(Protocol):
    """Where tasks come from: a pure function of (iteration, slot)."""

    def sample(self, iteration: int, slots: int | Sequence[int]) -> Task: ...


class Record(NamedTuple):
    """What each task gave after each number of inner steps, on the CPU."""

    scores: (
        torch.Tensor
    )  # (tasks, steps + 1) float64: mean score over the queries after 0, 1, ..., `steps` steps
    losses: torch.Tensor  # (tasks, steps + 1) float64: query loss
    checksums: torch.Tensor  # (tasks,) int64: which task it was, see tasks.Task.checksum


@dataclass(frozen=True)
class Evaluation:
    """Results over tasks."""

    scores: (
        torch.Tensor
    )  # (tasks,) float64 on the CPU: mean score over each task's queries, accuracy in [0, 1]
    losses: torch.Tensor  # (tasks,) float64 on the CPU: query loss after adaptation, in nats
    record: Record | None = None  # step by step, where it was asked for; its last column is the above

    @property
    def mean(self) -> float:
        return float(self.scores.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the 95% interval of the mean over tasks, 1.96 σ / √tasks; NaN for a single task."""
        return half_width(self.scores)

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


def half_width(values: torch.Tensor) -> float:
    """Of the 95% interval of the mean of independent values (n,): 1.96 σ / √n; NaN for a single one."""
    return 1.96 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def evaluate(
    learner: MetaLearner,
    params: PyTree,
    sampler: Sampler,
    tasks: int,
    *,
    problem: Problem | None = None,
    state: PyTree = None,
    iteration: int = 0,
    seed: int = 0,
    inner_steps: int | None = None,
    batch: int = 20,
    batch_norm: str = "batch",
    record: bool = False,
    workers: Workers | None = None,
    ranks: Ranks = ALONE,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Adapt to `tasks` tasks of the sampler, always the same ones, and score their queries.

    Each task has a Step with training=False; random functions draw from its seed, and dropout drops nothing.

    Args:
        problem: losses and score; None for the learner's own.
        state: what the learner carries; None: what its init_state gives.
        iteration: meta-updates taken, which the learner's way of adapting may depend on.
        seed: of the tasks' Steps.
        inner_steps: None for the algorithm's own.
        batch: tasks drawn at a time; changes memory, never the result.
        batch_norm: whose statistics normalise the queries, see meta.batch_norm.
        record: predict after every inner step, in the same pass, and keep it with each task's checksum. An algorithm
            without inner steps is recorded once.
        workers: threads on which tasks run side by side, see meta.parallel; None: one after the other.
        ranks: each takes a share of the tasks, and every one gets the results of all.
        progress: called with the number of this rank's tasks that are done.
    Raises: RankError if a rank is gone, or has other parameters than rank 0 (CPUs that round differently).
    Cost: one inner loop and one prediction per task, with record one per inner step; no session is open, so that each
        inner step's tape goes at once.
    """
    for name, value, least in (("tasks", tasks, 1), ("batch", batch, 1), ("inner_steps", inner_steps, 0)):
        if value is not None and not (isinstance(value, int) and value >= least):
            raise ValueError(f"evaluate: {name} must be an integer of {least} or more, got {value!r}")
    problem = problem or learner.problem
    state = learner.init_state(params) if state is None else state
    predict_by = normalisation.policy(batch_norm)

    seeded = SeededCalls()

    def result(item: tuple[int, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Score and loss (predictions,), after the last step or after each."""
        slot, task = item
        step = Step(iteration, slot, seed_of(seed, 0, slot), False, inner_steps, state)

        def judged() -> list[tuple[Any, Any]]:
            with computing(learner, params):
                predictor = as_predictor(learner.adapt(params, task.support, step))
                stages = predictor.trajectory if record and predictor.trajectory else (predictor,)
                predictors = [predict_by(stage, task.support) for stage in stages]
                return query_losses(problem, predictors, task.query)

        losses, scores = zip(*seeded(step.seed, judged, dropout=False), strict=True)
        return _stacked(scores), _stacked(losses)

    share = ranks.share(tasks)
    if ranks.size > 1:
        ranks.assert_same_bits("the parameters", params)
        # A rank without a task of its own does one all the same, to know what the others will send.
        share = range(share.start, max(share.stop, share.start + 1))
    results: list[tuple[torch.Tensor, torch.Tensor]] = []
    checksums: list[int] = []
    for first in range(share.start, share.stop, batch):
        slots = range(first, min(first + batch, share.stop))
        drawn = sampler.sample(0, slots)
        results += (workers or Workers(None)).map(result, zip(slots, drawn, strict=True))
        if record:
            checksums += [task.checksum() for task in drawn]
        progress(len(results))
    scores, losses = (torch.stack(column).double().cpu() for column in zip(*results, strict=True))
    kept = Record(scores, losses, torch.tensor(checksums, device="cpu")) if record else None
    own = Evaluation(scores[:, -1], losses[:, -1], kept)
    return own if ranks.size == 1 else _of_all(own, tasks, ranks)


def query_losses(
    problem: Problem, stages: Sequence[Callable[[Any], Any]], query: Any
) -> list[tuple[Any, Any]]:
    """problem.query_loss of each predictor; all meet the same random draws, so that none changes the next one's."""
    same, found = replay(), []
    for predict in stages:
        with same:
            found.append(problem.query_loss(predict, query))
    return found


def adapted(
    learner: MetaLearner,
    params: PyTree,
    support: Any,
    *,
    state: PyTree = (),
    iteration: int = 0,
    slot: int = 0,
    seed: int = 0,
    inner_steps: int | None = None,
) -> Predictor:
    """What evaluate() scores for one task: the predictor, with the same Step and random draws."""
    step = Step(iteration, slot, seed_of(seed, 0, slot), False, inner_steps, state)

    def within() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(neo.nn.draws(step.seed, dropout=False))
        stack.enter_context(computing(learner, params))
        return stack

    with within():
        return _within(as_predictor(learner.adapt(params, support, step)), within)


def _within(predictor: Predictor, within: Callable[[], AbstractContextManager[Any]]) -> Predictor:
    """The predictor, in a context wherever it is called."""

    def predict(x: Any) -> Any:
        with within():
            return predictor(x)

    stages = predictor.trajectory
    trajectory = None if stages is None else [_within(stage, within) for stage in stages]
    return Predictor(predict, predictor.params, trajectory)


def _stacked(scalars: Sequence[Any]) -> torch.Tensor:
    return torch.stack([torch.as_tensor(constant(scalar)) for scalar in scalars])


def _of_all(own: Evaluation, tasks: int, ranks: Ranks) -> Evaluation:
    """The results of every rank, in the order of the tasks."""
    columns: Any = [getattr(own, field.name) for field in fields(own)]

    def rows(count: int) -> Any:
        return pytree.tree_map(lambda column: column.new_empty(count, *column.shape[1:]), columns)

    share = ranks.share(tasks)
    gathered = ranks.gather(
        pytree.tree_map(lambda column: column[: len(share)], columns),
        [rows(len(ranks.share(tasks, rank))) for rank in range(ranks.size)],
    )
    return Evaluation(*pytree.tree_map(lambda *parts: torch.cat(parts), *gathered))
