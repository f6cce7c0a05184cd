"""One task of a run again, bit for bit: what it holds, its adaptation step by step, its gradient; the hardest tasks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from meta import checkpoint, plots, task_results
from meta.checkpoint import Checkpoints
from meta.evaluate import query_losses
from meta.experiment import Experiment
from meta.files import write_json
from meta.finished_run import FinishedRun, NotWritten, expect_name
from meta.learner import Step, TaskResult, as_predictor
from meta.machine import device_name, versions
from meta.metrics_file import plain
from meta.precision import computing
from meta.problems import constant
from meta.resume import expect_own, expect_version
from meta.trained import Trained
from meta.trainer import State
from neo import pytree
from neo.draws import SeededCalls
from tasks import Task

__all__ = ["Replayed", "hardest_tasks", "replay", "replay_run", "state_at"]


class Replayed(NamedTuple):
    """A training task as the run met it.

    trained: the learner with the meta-parameters of that moment.
    result: gradient, loss and score, which went into the run's meta-gradient.
    steps: (score, NaN, query loss) after 0, 1, ... inner steps; one entry for an algorithm without.
    """

    trained: Trained
    task: Task
    step: Step
    result: TaskResult
    steps: list[task_results.Step]


def state_at(experiment: Experiment, folder: Path, iteration: int) -> tuple[State, Path | None]:
    """The state of a run after `iteration` meta-updates, bit for bit on the CPU, and the checkpoint that it came from.

    From the nearest checkpoint before it, else from the initial parameters (None), by training that far again: memory
    and time of so many steps. Nothing is written.
    Raises: CheckpointError for a checkpoint of another run or version; ValueError for an iteration that is negative, or
        beyond the end of training.
    """
    trainer = experiment.trainer
    if not 0 <= iteration <= trainer.iterations:
        raise ValueError(
            f"iteration={iteration} must be from 0 to {trainer.iterations}, the run's trainer.iterations."
        )
    behind = {_step_of(path): path for path in Checkpoints(folder / "checkpoints").paths()}
    reached = [step for step in behind if step <= iteration]
    nearest = behind[max(reached)] if reached else None
    if nearest is None:
        state = experiment.start()
    else:
        expect_own(folder, nearest)
        expect_version(nearest)
        state = checkpoint.load(nearest, trainer.start(experiment.device))
    if state.step == iteration:
        return state, nearest
    later = (after for after, _ in trainer.steps(experiment.sampler("train"), state))
    return next(after for after in later if after.step == iteration), nearest


def replay(experiment: Experiment, state: State, slot: int) -> Replayed:
    """The task of a slot of the meta-update after `state`, met as the run meets it.

    Raises: ValueError for a slot that no meta-batch has; what the learner raises.
    """
    trainer = experiment.trainer
    if not 0 <= slot < trainer.tasks_per_update:
        raise ValueError(
            f"slot={slot} must be from 0 to {trainer.tasks_per_update - 1}: an update takes {trainer.tasks_per_update} "
            "tasks."
        )
    task = experiment.sampler("train").sample(state.step, [slot])[0]
    batch = trainer.batch(state)
    step = batch.step(state.step, slot, state.state)
    result = batch.alone(state.params, task, step)

    def scored() -> list[task_results.Step]:
        with computing(trainer.learner, state.params):
            predictor = as_predictor(trainer.learner.adapt(state.params, task.support, step))
            pairs = query_losses(experiment.problem, predictor.trajectory or (predictor,), task.query)
        return [task_results.Step(_number(score), math.nan, _number(loss)) for loss, score in pairs]

    return Replayed(experiment.trained(state), task, step, result, SeededCalls()(step.seed, scored))


def replay_run(
    folder: Path,
    *,
    iteration: int,
    slot: int,
    name: str = "replay",
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Meet a training task of a run again; write what it was and what came of it, and give it.

    Writes into the folder: <name>.json (checksum of the task, loss and score after each inner step, the gradient's norm
    a parameter and a hash of its bits), plots/<name>.png (the task with what the adapted model made of it) and
    plots/<name>_steps.png, each also as .pdf and .svg.

    Args:
        iteration: from 0: the meta-update, which takes the meta-parameters after so many.
        slot: of the task in its meta-batch, from 0.
        overrides: device, workers, data_dir.
    Raises: as state_at(), replay() and FinishedRun.open().
    """
    expect_name(name, "a replay")
    run = FinishedRun.open(folder, "train", "last", overrides or {})
    experiment = run.experiment
    state, nearest = state_at(experiment, folder, iteration)
    found = replay(experiment, state, slot)
    leaves, structure = pytree.flatten(found.result.gradient)
    gradient = {".".join(map(str, path)): leaf for path, leaf in zip(structure.paths(), leaves, strict=True)}
    metric = experiment.problem.metric
    result = plain(
        {
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            "iteration": iteration,
            "slot": slot,
            "seed": found.step.seed,
            "from": "the initial parameters" if nearest is None else nearest.name,
            "task": found.task.checksum(),
            "classes": _classes(run.sampler, iteration, slot),
            "loss": _number(found.result.loss),
            metric.name: _number(found.result.score),
            "steps": [{metric.name: one.score, "loss": one.loss} for one in found.steps],
            "gradient_sha256": bits(gradient.values()),
            "gradient_norms": {key: float(constant(leaf).norm()) for key, leaf in gradient.items()},
            "versions": versions(),
            "device": device_name(experiment.device),
            "record": run.about.get("record"),
        }
    )
    title = f"{experiment.title(run.sampler)}: iteration {iteration}, slot {slot}"
    try:
        _draw(
            experiment,
            found.trained,
            _Chosen([found.task], "train", run.sampler),
            folder / "plots" / f"{name}.png",
            title,
        )
        if len(found.steps) > 1:
            plots.inner_steps(
                found.steps,
                folder / "plots" / f"{name}_steps.png",
                title=title,
                metric=metric,
                chance=run.sampler.chance,
            )
        write_json(folder / f"{name}.json", result)
    except OSError as error:
        raise NotWritten(error, result) from error
    return result


def hardest_tasks(
    folder: Path, *, tasks: int, name: str = "hardest", overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The test tasks of a run that went worst: a gallery with what the model took their queries for.

    By test.safetensors, which training left: the lowest scores after the last inner step, the larger loss first among
    equals. Writes <name>.json (slot, score, loss, checksum, classes of each) and plots/<name>.png, .pdf and .svg.

    Raises: ValueError for a number of tasks that the test has not; ResultsError without test.safetensors, or where its
        tasks are not those that the run's configuration draws.
    """
    expect_name(name, "a gallery")
    run = FinishedRun.open(folder, "test", "last", overrides or {})
    results = task_results.load(folder / "test.safetensors")
    if not 1 <= tasks <= results.tasks:
        raise ValueError(f"hardest={tasks} must be from 1 to {results.tasks}, the tasks of the run's test.")
    scores, losses = results.record.scores[:, -1], results.record.losses[:, -1]
    sign = 1 if results.metric.higher_is_better else -1
    slots = sorted(range(results.tasks), key=lambda slot: (sign * float(scores[slot]), -float(losses[slot])))[
        :tasks
    ]
    drawn = list(run.sampler.sample(0, slots))
    for slot, task in zip(slots, drawn, strict=True):
        if task.checksum() != int(results.record.checksums[slot]):
            raise task_results.ResultsError(
                f"{results.path}: its task {slot} is not the one that this run's configuration draws; put the "
                "file that belongs there in its place."
            )
    found = plain(
        {
            "metric": results.metric.name,
            "tasks": [
                {
                    "slot": slot,
                    results.metric.name: float(scores[slot]),
                    "loss": float(losses[slot]),
                    "checksum": int(results.record.checksums[slot]),
                    "classes": _classes(run.sampler, 0, slot),
                }
                for slot in slots
            ],
            "record": run.about.get("record"),
        }
    )
    title = f"{run.experiment.title(run.sampler)}: the hardest of {results.tasks}"
    try:
        _draw(
            run.experiment,
            run.trained,
            _Chosen(drawn, "test", run.sampler),
            folder / "plots" / f"{name}.png",
            title,
        )
        write_json(folder / f"{name}.json", found)
    except OSError as error:
        raise NotWritten(error, found) from error
    return found


def bits(leaves: Any) -> str:
    """A hash of the leaves' bytes, in order."""
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(constant(leaf).detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _Chosen:
    """A sampler of some tasks, whatever the iteration and the slots; all else that it has is another sampler's."""

    def __init__(self, tasks: Sequence[Task], part: str, sampler: Any) -> None:
        self.tasks, self.part, self.sampler = tasks, part, sampler
        self.pixels = getattr(sampler, "pixels", lambda x: x)

    def sample(self, iteration: int, slots: int | Sequence[int]) -> Any:
        return self.tasks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["sampler"], name)


def _draw(experiment: Experiment, trained: Trained, sampler: _Chosen, path: Path, title: str) -> None:
    """In training with the algorithm's own inner steps, in a test with the evaluation's."""
    if experiment.picture is not None:
        steps = None if sampler.part == "train" else experiment.config.evaluation.inner_steps
        experiment.picture(trained, sampler, path, title=title, steps=steps)


def _classes(sampler: Any, iteration: int, slot: int) -> list[str] | None:
    """What the classes of a task are called, by label; None for tasks without."""
    if not hasattr(sampler, "class_name"):
        return None
    return [sampler.class_name(int(number)) for number in sampler.draw(iteration, [slot])[0][0]]


def _step_of(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _number(value: Any) -> float:
    return float(constant(value))
