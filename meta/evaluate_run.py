"""A run's checkpoint on unseen tasks, under the protocol that it was trained for or another one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from meta import checkpoint, plots, task_results
from meta.experiment import Experiment, device_name, versions
from meta.files import expect_writable, write_json
from meta.load import checkpoint_paths, loaded
from meta.metrics_file import plain
from meta.resume import expect_own, expect_same_data

__all__ = ["NotWritten", "evaluate_run"]

TAKEN = ("failure", "metrics", "result", "test")  # names of what training leaves in the folder
SAMPLED = ("ways", "shots", "queries", "rotations")  # what tasks are made of


class NotWritten(OSError):
    """An evaluation could not be written; `result` has what evaluate_run() would have given."""

    def __init__(self, error: OSError, result: dict[str, Any]) -> None:
        super().__init__(error.errno, error.strerror or str(error), error.filename)
        self.result = result


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
    <name>.safetensors (every task's results, see meta.task_results) and plots/<name>.png, .pdf and .svg; earlier
    ones of that name go.

    Args:
        tasks: how many, ≥ 1.
        part: "test" or "val".
        which: "last", "best" (by validation), or "ensemble": the trainer.keep_best best by validation, whose
            predictions are averaged, see meta.ensemble.
        overrides: key → value in place of those that the run was configured with: ways, shots, queries, rotations (of
            the tasks drawn), or dotted keys: evaluation.inner_steps, evaluation.seed, evaluation.batch_norm, device ...
    Raises: CheckpointError for a folder without such a checkpoint, or with one of another run, or other data than the
        run was trained on; TrainingError where adapting to a task breaks down; ValueError for a protocol that its
        tasks or its model cannot hold; OSError, before anything is computed, for a folder that cannot be written, and
        NotWritten, with the result, where writing failed all the same.
    """
    if part not in ("val", "test"):
        raise ValueError(f"unknown part={part!r}; expected 'test' or 'val'.")
    if not re.fullmatch(r"\w[\w.-]*", name) or name in TAKEN:
        raise ValueError(
            f"name={name!r} cannot name an evaluation's files; use letters, digits, _, . and -, and none of "
            f"{', '.join(TAKEN)}."
        )
    paths = checkpoint_paths(folder, which)
    for path in paths:
        expect_own(folder, path)
    for place in (folder, folder / "plots"):
        if place == folder or place.exists():
            expect_writable(place)
    about = checkpoint.read_header(paths[0])
    config = _configured(about, {**(overrides or {}), "evaluation.tasks": tasks})
    experiment = Experiment(config)
    expect_same_data(experiment, paths[0])
    trained = loaded(experiment, paths, which)
    sampler = experiment.sampler(part)
    fitted = experiment.for_tasks_of(sampler, trained)
    if fitted is not experiment:
        experiment, trained = fitted, loaded(fitted, paths, which)
    evaluation = experiment.evaluate_trained(trained, sampler, tasks, record=True)

    metric = experiment.problem.metric
    protocol = experiment.protocol()
    kept = {
        "part": part,
        "iterations": trained.iteration,
        "checkpoint": ", ".join(path.name for path in paths),
        "protocol": protocol,
        "trained_as": _trained_as(about, protocol, experiment),
        "versions": versions(),
        "device": device_name(experiment.device),
        "record": about.get("record"),
    }
    assert evaluation.record is not None
    steps = task_results.Results(folder, evaluation.record, kept).by_step()
    result = plain(
        {
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            f"{part}/{metric.name}": evaluation.mean,
            f"{part}/ci95": evaluation.ci95,
            f"{part}/loss": evaluation.loss,
            f"{part}/tasks": tasks,
            f"{part}/chance": sampler.chance,
            f"{part}/steps": [
                {metric.name: step.score, "ci95": step.ci95, "loss": step.loss} for step in steps
            ],
            **kept,
        }
    )
    try:
        task_results.write(folder / f"{name}.safetensors", evaluation, metric, kept)
        plots.inner_steps(
            steps,
            folder / "plots" / f"{name}.png",
            title=f"{experiment.title(sampler)}: {tasks} {part} tasks",
            metric=metric,
            chance=sampler.chance,
        )
        write_json(folder / f"{name}.json", result)
    except OSError as error:
        raise NotWritten(error, result) from error
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
    config = OmegaConf.create({**about["config"], "device": "cpu"})  # the run's device may be elsewhere
    trained = Experiment(config, dataset=experiment.dataset)
    was = trained.protocol()
    return {key: value for key, value in was.items() if key not in protocol or protocol[key] != value}
