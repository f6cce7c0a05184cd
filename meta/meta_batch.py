"""What a meta-batch says of the meta-parameters: every task's result, checked, and their mean in one order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch

import neo
from meta.averaging import blocks, mean, mean_of_rows, pieces
from meta.carried import Carried
from meta.distributed import ALONE, Ranks
from meta.learner import MetaLearner, Step, TaskResult, seed_of
from meta.parallel import Batched, Workers, unstacked
from meta.precision import computing
from meta.problems import constant
from neo import LiteTensor, pytree
from neo.draws import SeededCalls
from neo.typing import PyTree
from tasks import Task

__all__ = ["MetaBatch", "MetaGradient", "meta_gradient"]


class MetaGradient(NamedTuple):
    """What one meta-batch says of the meta-parameters. Scalars stay on the device, so that nothing waits for them."""

    gradient: PyTree  # the mean of the tasks' gradients, like the meta-parameters
    loss: torch.Tensor  # (meta_batch,) query loss of each task after adaptation
    score: torch.Tensor  # (meta_batch,) mean score over each task's queries, say accuracy in [0, 1]
    state: PyTree = None  # the mean of what the tasks carry on; None where they carry nothing new
    metrics: Mapping[str, torch.Tensor] = {}  # (meta_batch,) each: what else the tasks report


def meta_gradient(
    learner: MetaLearner,
    params: PyTree,
    tasks: Task,
    *,
    iteration: int = 0,
    seed: int = 0,
    state: PyTree = None,
    workers: Workers | None = None,
) -> MetaGradient:
    """The mean over a meta-batch of learner.task_gradient, with every task's loss and score.

    Args:
        tasks: a meta-batch: slots 0, 1, ...
        iteration, seed: of the run: what the tasks' Steps are made of.
        state: what the learner carries; None: what its init_state gives.
        workers: threads, or all tasks in one call: see meta.parallel; None: one after the other.
    Raises: TypeError or ValueError where task_gradient gives something of the wrong form, saying what was expected.
    """
    carried = learner.init_state(params) if state is None else state
    batch = MetaBatch(learner, carried, seed=seed, workers=workers)
    return batch.decoded(batch.gradient(params, tasks, iteration, range(len(tasks)), carried))


class MetaBatch:
    """The tasks of one meta-update: run side by side, each with a Step and random draws of its own; checked; averaged.

    Args:
        learner: whose task_gradient is taken.
        state: what it carries, of which the form counts here.
        seed: of the run.
        workers: how tasks run side by side, see meta.parallel; None: one after the other.
        reserved: names that a task's metrics cannot have, as logs have them already.
        capture: record it once and replay it (neo.capture): on a GPU the whole as a CUDA graph; on the CPU the kernel
            calls of a task, or those of all with batched=true, to the same bits as without.
    """

    def __init__(
        self,
        learner: MetaLearner,
        state: PyTree,
        *,
        seed: int = 0,
        workers: Workers | None = None,
        reserved: Sequence[str] = ("loss",),
        capture: bool = False,
    ) -> None:
        self.learner, self.seed, self.reserved = learner, seed, reserved
        self.workers = workers or Workers(None)
        self.owner = type(learner).__name__
        self.carried = Carried(self.owner, state)
        self._seeded = SeededCalls()
        self._recorded = neo.capture(self._at_any_step) if capture else None

    def step(self, iteration: int, slot: int, state: PyTree) -> Step:
        """Where a training task is met."""
        return Step(iteration, slot, seed_of(self.seed, iteration, slot), training=True, state=state)

    def over_ranks(
        self,
        params: PyTree,
        sampler: Any,
        iteration: int,
        meta_batch: int,
        state: PyTree,
        ranks: Ranks = ALONE,
        accumulate: int = 1,
    ) -> MetaGradient:
        """Of slots 0 to accumulate · meta_batch − 1, a share from each rank; every rank gets the mean of all.

        No more than meta_batch tasks are drawn, and with batched=true held, at a time: over all ranks.

        Bit for bit the same on any number of ranks, for the sums have one order (meta.averaging); with tasks in one
        call (meta.parallel.Batched) up to rounding.
        Raises: RankError if a rank is gone; ValueError for fewer tasks than ranks.
        Cost: a rank computes meta_batch / size tasks, and receives `size` times the bytes of the parameters where
            meta_batch / size is a power of two, up to 2 log₂(meta_batch / size) times that otherwise.
        """
        total = accumulate * meta_batch
        if total == meta_batch and ranks.size == 1:
            tasks = sampler.sample(iteration, meta_batch)
            return self.decoded(self.gradient(params, tasks, iteration, range(meta_batch), state))
        ranks.expect_work(total)
        most = max(meta_batch // ranks.size, 1) if accumulate > 1 else total

        def of_slots(slots: range) -> MetaGradient:
            if len(slots) <= most:
                return self.gradient(params, sampler.sample(iteration, slots), iteration, slots, state)
            return self._joined(map(of_slots, pieces(slots, most)), map(len, pieces(slots, most)))

        if ranks.size == 1:
            return self.decoded(of_slots(range(total)))
        shares = [blocks(ranks.share(total, rank)) for rank in range(ranks.size)]
        found = [of_slots(block) for block in shares[ranks.index]]
        like = found[0]

        def template(block: range) -> MetaGradient:
            def column(one: torch.Tensor) -> torch.Tensor:
                return one.new_empty(len(block))

            metrics = {name: column(values) for name, values in like.metrics.items()}
            return MetaGradient(like.gradient, column(like.loss), column(like.score), like.state, metrics)

        everything = ranks.gather(found, [[template(block) for block in share] for share in shares])
        parts = (part for of_rank in everything for part in of_rank)
        return self.decoded(self._joined(parts, [len(block) for share in shares for block in share]))

    def gradient(
        self, params: PyTree, tasks: Task, iteration: int, slots: Sequence[int], state: PyTree
    ) -> MetaGradient:
        """Of some slots of an iteration, `tasks` theirs; its state still a list of torch tensors, see decoded()."""
        recorded = self._recorded
        if recorded is not None and pytree.leaves(params)[0].device.type == "cuda":
            return recorded(params, tasks, state)
        workers = self.workers
        if isinstance(workers, Batched):
            first = self.step(iteration, slots[0], state)
            if recorded is not None:
                return self._seeded(first.seed, lambda: workers.alone(lambda: recorded(params, tasks, state)))
            step = _Shared(first, ("slot", "seed"), "batched=true")
            return self._at_once(lambda task: self._drawn(params, task, step, first.seed), tasks, workers)
        steps = (self.step(iteration, slot, state) for slot in slots)

        def of_task(item: tuple[Step, Any]) -> _Result:
            step, task = item
            if recorded is not None:
                return self._seeded(step.seed, lambda: recorded(params, task, step.state, alone=True))
            return self._drawn(params, task, step, step.seed)

        return self._averaged(self.workers.each(of_task, zip(steps, tasks, strict=True)))

    def alone(self, params: PyTree, task: Any, step: Step) -> TaskResult:
        """One task's result, as it is in its meta-batch: checked, and drawn by step.seed."""
        gradient, loss, score, _, metrics = self._drawn(params, task, step, step.seed)
        return TaskResult(gradient, loss, score, metrics=metrics)

    def decoded(self, found: MetaGradient) -> MetaGradient:
        """With its state in the form that the learner gave it."""
        return found if found.state is None else found._replace(state=self.carried.decode(found.state))

    def _at_any_step(self, params: PyTree, tasks: Any, state: PyTree, *, alone: bool = False) -> Any:
        """What is recorded, of a meta-batch or of one task alone: Python runs once for all steps.

        Draws are those of the block around the call, which has the step's seed; a CUDA graph's torch's own.
        """
        step = _Shared(
            Step(training=True, state=state), ("iteration", "slot", "seed"), "trainer.capture=true"
        )
        if alone:
            return self._result(params, tasks, step)
        if isinstance(self.workers, Batched):
            return self._at_once(lambda task: self._result(params, task, step), tasks, self.workers)
        return self._averaged(self.workers.each(lambda task: self._result(params, task, step), tasks))

    def _drawn(self, params: PyTree, task: Any, step: Step, seed: int) -> _Result:
        return self._seeded(seed, lambda: self._result(params, task, step))

    def _result(self, params: PyTree, task: Any, step: Step) -> _Result:
        with computing(self.learner, params):
            found = self.learner.task_gradient(params, task, step)
        if not isinstance(found, TaskResult):
            raise TypeError(
                f"{self.owner}.task_gradient must return meta.TaskResult(gradient, loss, score), got "
                f"{type(found).__name__}."
            )
        self._expect_like(found.gradient, params)
        if not isinstance(found.metrics, Mapping):
            raise TypeError(
                f"{self.owner}.task_gradient: metrics must be a dict of scalars by name, got "
                f"{type(found.metrics).__name__}."
            )
        for name in found.metrics:
            if not isinstance(name, str) or name in self.reserved:
                raise ValueError(
                    f"{self.owner}.task_gradient: a metric cannot be called {name!r}; logs have "
                    f"{', '.join(self.reserved)} already. Give it another name."
                )
        return (
            found.gradient,
            self._scalar("loss", found.loss),
            self._scalar("score", found.score),
            None if found.state is None else self.carried.encode(found.state),
            {name: self._scalar(f"metrics[{name!r}]", value) for name, value in found.metrics.items()},
        )

    def _expect_like(self, gradient: PyTree, params: PyTree) -> None:
        leaves: list[Any]
        wanted: list[Any]
        leaves, structure = pytree.flatten(gradient)
        wanted, expected = pytree.flatten(params)
        if structure != expected:
            raise TypeError(
                f"{self.owner}.task_gradient: the gradient must have the structure of the meta-parameters, {expected}; "
                f"got {structure}."
            )
        for leaf, like, path in zip(leaves, wanted, expected.paths(), strict=True):
            if not isinstance(leaf, (LiteTensor, torch.Tensor)):
                kind = type(leaf).__name__
            elif leaf.shape != like.shape or leaf.dtype != like.dtype:
                kind = f"{tuple(leaf.shape)} {leaf.dtype}"
            else:
                continue
            raise ValueError(
                f"{self.owner}.task_gradient: the gradient of {'.'.join(map(str, path))!r} must be {tuple(like.shape)} "
                f"{like.dtype}, as the meta-parameter is; got {kind}."
            )

    def _scalar(self, what: str, value: Any) -> torch.Tensor:
        if isinstance(value, (LiteTensor, torch.Tensor)) and value.ndim == 0:
            return value.data.detach() if isinstance(value, LiteTensor) else value.detach()
        if isinstance(value, (int, float)):
            return torch.tensor(float(value), device="cpu")
        got = f"shape {tuple(value.shape)}" if isinstance(value, (LiteTensor, torch.Tensor)) else repr(value)
        raise TypeError(
            f"{self.owner}.task_gradient: {what} must be a number or a tensor without dims, one value for the task; "
            f"got {got}."
        )

    def _at_once(self, of_task: Callable[[Any], _Result], tasks: Task, workers: Batched) -> MetaGradient:
        """_averaged() of all tasks together, to the same bits: without a tree for each of them."""
        found = workers.stacked(of_task, tasks)
        gradient, losses, scores, carried, metrics = found
        if carried is None:
            losses, scores, metrics = pytree.tree_map(constant, (losses, scores, metrics))
            return MetaGradient(mean_of_rows(gradient), losses, scores, None, metrics)
        return self._averaged(unstacked(found))

    def _averaged(self, results: Iterable[_Result]) -> MetaGradient:
        """The mean of tasks' results, taken one by one: few gradients are held at a time."""
        losses, scores, metrics = [], [], []

        def trees() -> Iterator[tuple[PyTree, list[torch.Tensor] | None]]:
            for gradient, loss, score, carried, reported in results:
                losses.append(loss)
                scores.append(score)
                metrics.append(reported)
                yield gradient, carried

        gradient, carried = self._mean(trees(), repeat(1))
        names = list(metrics[0])
        for reported in metrics:
            if list(reported) != names:
                raise ValueError(
                    f"{self.owner}.task_gradient: every task must report the same metrics, got {list(reported)} after "
                    f"{names}."
                )
        columns = {name: torch.stack([reported[name] for reported in metrics]) for name in names}
        return MetaGradient(gradient, torch.stack(losses), torch.stack(scores), carried, columns)

    def _joined(self, parts: Iterable[MetaGradient], sizes: Iterable[int]) -> MetaGradient:
        """Of blocks of slots, in their order, that of all; taken one by one."""
        columns: list[tuple[torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]]] = []

        def trees() -> Iterator[tuple[PyTree, Any]]:
            for gradient, loss, score, carried, metrics in parts:
                columns.append((loss, score, metrics))
                yield gradient, carried

        gradient, carried = self._mean(trees(), sizes)
        losses, scores, reported = zip(*columns, strict=True)
        metrics = {name: torch.cat([one[name] for one in reported]) for name in reported[0]}
        return MetaGradient(gradient, torch.cat(losses), torch.cat(scores), carried, metrics)

    def _mean(
        self, parts: Iterable[tuple[PyTree, list[torch.Tensor] | None]], sizes: Iterable[int]
    ) -> tuple[PyTree, list[torch.Tensor] | None]:
        """The mean of (gradient, state) of blocks of tasks; of a state, of what has one, while the rest must agree."""
        first: list[list[torch.Tensor] | None] = []

        def floating() -> Iterator[tuple[PyTree, list[torch.Tensor]]]:
            for gradient, carried in parts:
                if not first:
                    first.append(carried)
                elif (carried is None) != (first[0] is None):
                    raise ValueError(
                        f"{self.owner}.task_gradient: state is None for some tasks of a meta-batch and not for others; "
                        "give it for all, unchanged where nothing is new."
                    )
                for place, (one, other) in enumerate(zip(first[0] or (), carried or (), strict=True)):
                    if not one.is_floating_point() and one is not other:
                        self.carried.expect_same(one, other, place)
                yield gradient, [one for one in carried or () if one.is_floating_point()]

        gradient, averaged = mean(floating(), sizes)
        if first[0] is None:
            return gradient, None
        means = iter(averaged)
        return gradient, [next(means) if one.is_floating_point() else one for one in first[0]]


_Result = tuple[PyTree, torch.Tensor, torch.Tensor, list[torch.Tensor] | None, dict[str, torch.Tensor]]


class _Shared(Step):
    """A step that stands for several, so that some of what it says is not known."""

    def __init__(self, step: Step, unknown: tuple[str, ...], reason: str) -> None:
        vars(self).update(vars(step), _unknown=unknown, _reason=reason)

    def __getattribute__(self, name: str) -> Any:
        known = object.__getattribute__(self, "__dict__")
        if name in known.get("_unknown", ()):
            raise ValueError(
                f"step.{name} is not known with {known['_reason']}, where one call of task_gradient serves several "
                f"tasks or steps; an algorithm that needs it runs without {known['_reason']}."
            )
        return object.__getattribute__(self, name)
