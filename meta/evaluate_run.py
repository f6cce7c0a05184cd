"""A run's checkpoint on unseen tasks, under the protocol that it was trained for or another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from meta import plots, task_results
from meta.experiment import Experiment
from meta.files import write_json
from meta.finished_run import FinishedRun, NotWritten, expect_name
from meta.machine import device_name, versions
from meta.metrics_file import plain

__all__ = ["evaluate_run"]


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
    expect_name(name, "an evaluation")
    run = FinishedRun.open(folder, part, which, {**(overrides or {}), "evaluation.tasks": tasks})
    experiment, trained, sampler = run.experiment, run.trained, run.sampler
    evaluation = experiment.evaluate_trained(trained, sampler, tasks, record=True)

    metric = experiment.problem.metric
    protocol = experiment.protocol()
    kept = {
        "part": part,
        "iterations": trained.iteration,
        "checkpoint": ", ".join(path.name for path in run.paths),
        "protocol": protocol,
        "trained_as": _trained_as(run.about, protocol, experiment),
        "versions": versions(),
        "device": device_name(experiment.device),
        "record": run.about.get("record"),
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


def _trained_as(
    about: Mapping[str, Any], protocol: Mapping[str, Any], experiment: Experiment
) -> dict[str, Any]:
    """What the run's own protocol says otherwise."""
    config = OmegaConf.create({**about["config"], "device": "cpu"})  # the run's device may be elsewhere
    trained = Experiment(config, dataset=experiment.dataset)
    was = trained.protocol()
    return {key: value for key, value in was.items() if key not in protocol or protocol[key] != value}
