"""A run's checkpoint on unseen tasks, under the protocol that it was trained for or another one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from meta import checkpoint, plots, results
from meta.algorithms import MetaLearner
from meta.checkpoint import CheckpointError, Checkpoints
from meta.experiment import Experiment, device_name, versions
from meta.files import write_json
from meta.metrics import plain
from meta.resume import expect_own
from meta.run import expect_same_data
from neo.nn import Lambda, Module, Sequential
from neo.typing import Params, PyTree
from tasks import TaskSampler

__all__ = ["evaluate_run"]

TAKEN = ("failure", "metrics", "result", "test")  # names of what training leaves in the folder
SAMPLED = ("ways", "shots", "queries", "rotations")  # what tasks are made of


def evaluate_run(
    folder: Path,
    *,
    tasks: int,
    part: str = "test",
    which: str = "last",
    name: str = "evaluation",
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a run's checkpoint on unseen tasks, step by step; write what was found, and give it.

    Writes into the folder: <name>.json (mean and 95% interval after the last inner step and after each, protocol),
    <name>.safetensors (every task's results, see meta.results) and plots/<name>.png; an earlier one of that name goes.

    Args:
        tasks: how many, ≥ 1.
        part: "test" or "val".
        which: "last" or "best" (by validation).
        overrides: key → value in place of those that the run was configured with: ways, shots, queries, rotations (of
            the tasks drawn), or dotted keys: evaluation.inner_steps, evaluation.seed, evaluation.batch_norm, device ...
    Raises: CheckpointError for a folder without such a checkpoint, or with one of another run, or other data than the
        run was trained on; TrainingError where adapting to a task breaks down; ValueError for a protocol that its
        tasks or its model cannot hold.
    """
    if part not in ("val", "test"):
        raise ValueError(f"part={part!r} is no part to evaluate on; expected 'test' or 'val'.")
    if which not in ("last", "best"):
        raise ValueError(f"checkpoint={which!r} is none that is kept; expected 'last' or 'best'.")
    if not re.fullmatch(r"\w[\w.-]*", name) or name in TAKEN:
        raise ValueError(
            f"name={name!r} cannot name an evaluation's files; use letters, digits, _, . and -, and none of "
            f"{', '.join(TAKEN)}."
        )
    checkpoints = Checkpoints(folder / "checkpoints")
    path = checkpoints.last() if which == "last" else checkpoints.best()
    if path is None:
        raise CheckpointError(
            f"{checkpoints.folder} holds no best checkpoint: no validation ran. Use checkpoint=last."
        )
    expect_own(folder, path)
    about = checkpoint.read_header(path)
    experiment = Experiment(_configured(about, {**(overrides or {}), "evaluation.tasks": tasks}))
    expect_same_data(experiment, path)
    state = checkpoint.load(path, experiment.trainer.start(experiment.config.seed, experiment.device))
    sampler = experiment.sampler(part)
    _fit_outputs(experiment.learner, state.params, sampler)
    evaluation = experiment.evaluate(state.params, sampler, tasks, record=True)

    metric = experiment.learner.objective.metric
    protocol = experiment.protocol()
    kept = {
        "part": part,
        "iterations": state.step,
        "checkpoint": path.name,
        "protocol": protocol,
        "trained_as": _trained_as(about, protocol, experiment),
        "versions": versions(),
        "device": device_name(experiment.device),
    }
    results.write(folder / f"{name}.safetensors", evaluation, metric, kept)
    steps = results.load(folder / f"{name}.safetensors").by_step()
    result = plain(
        {
            "metric": metric.name,
            f"{part}/{metric.name}": evaluation.mean,
            f"{part}/ci95": evaluation.ci95,
            f"{part}/loss": evaluation.loss,
            f"{part}/tasks": tasks,
            f"{part}/steps": [
                {metric.name: step.score, "ci95": step.ci95, "loss": step.loss} for step in steps
            ],
            **kept,
        }
    )
    plots.inner_steps(
        steps,
        folder / "plots" / f"{name}.png",
        title=f"{experiment.dataset.name}, {sampler.title}: {tasks} {part} tasks",
        metric=metric,
        chance=sampler.chance,
    )
    write_json(folder / f"{name}.json", result)
    return result


def _configured(about: Mapping[str, Any], overrides: Mapping[str, Any]) -> DictConfig:
    """The run's configuration with overrides; the model stays what its checkpoint holds, whatever the tasks become."""
    config = OmegaConf.create(about["composed"])
    assert isinstance(config, DictConfig)
    config.model = OmegaConf.create(about["config"]["model"])
    for key, value in overrides.items():
        # Where tests have a setting of their own, that is the one meant: test_queries for queries.
        places = [f"task.test_{key}", f"task.{key}"] if key in SAMPLED else [key]
        known = [place for place in places if OmegaConf.select(config, place) is not None]
        if not known and key in SAMPLED:
            raise ValueError(
                f"{key}={value}: the tasks of this run, {config.task.dataset._target_}, have no {key}; leave it out."
            )
        OmegaConf.update(config, (known or places)[0], value)
    return config


def _trained_as(
    about: Mapping[str, Any], protocol: Mapping[str, Any], experiment: Experiment
) -> dict[str, Any]:
    """What the run's own protocol says otherwise."""
    trained = Experiment(OmegaConf.create({**about["config"], "device": "cpu"}))  # which may be elsewhere
    trained.dataset = experiment.dataset
    was = trained.protocol()
    return {key: value for key, value in was.items() if key not in protocol or protocol[key] != value}


class FirstOutputs(Module):
    """The first `outputs` of a model's outputs; the others get no gradient and no share of a softmax."""

    def __init__(self, model: Module, outputs: int) -> None:
        self.model, self.outputs = model, outputs

    def __call__(self, params: Params, x: Any) -> Any:
        return self.model(params, x)[:, : self.outputs]


def _fit_outputs(learner: MetaLearner, params: PyTree, sampler: TaskSampler) -> None:
    """Look at as many of a classifier's outputs as the tasks have ways, as if its head had been made so small.

    Raises: ValueError where it has fewer.
    """
    task = sampler.sample(0, 1)[0]
    if task.support.y.dtype.is_floating_point:
        return
    ways = int(task.support.y.max()) + 1
    outputs = learner.model(learner.adapt(params, task.support, 0), task.support.x).shape[1]
    if ways > outputs:
        raise ValueError(
            f"ways={ways} is more than the {outputs} classes that the run's model tells apart; choose ways from 2 to "
            f"{outputs}, or train one with task.ways={ways}."
        )
    if ways == outputs:
        return
    if isinstance(learner.model, Sequential):  # which some batch-norm policies need it to stay
        learner.model = Sequential([*learner.model.layers, ("first", Lambda(lambda x: x[:, :ways]))])
    else:
        learner.model = FirstOutputs(learner.model, ways)
