"""A run from its first step to its result, and everything it leaves in its folder.

metrics.jsonl               a line for each logged step
checkpoints/                step-*.safetensors, best.safetensors
plots/learning_curve.png, plots/tasks.png
test.safetensors            every test task's results, after each inner step: meta.results
result.json                 the test score and its protocol, at the end
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from meta import checkpoint, plots, results
from meta.checkpoint import CheckpointError, Checkpoints
from meta.distributed import ALONE, Ranks
from meta.evaluate import Evaluation
from meta.experiment import Experiment, device_name, versions
from meta.files import alone_in, drop_unfinished, write_json
from meta.interruption import Interrupted, Interruptions
from meta.loggers import Progress
from meta.metrics import Metrics, plain, read_metrics
from meta.objectives import Metric, metric_named
from meta.resume import expect_own, expect_version, holds_run
from meta.trainer import Log, State
from neo.typing import PyTree

__all__ = ["expect_same_data", "resumed_config", "sentence", "train", "validation_score"]


def train(config: DictConfig, folder: Path, *, resume: bool = False, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Meta-train as configured, test once at the end, and give the content of result.json.

    Of several ranks the first does all reading and writing in the folder; the others compute, and give {}.

    Args:
        config: conf/train.yaml, composed; with resume, the one of the run: resumed_config(folder).
        folder: the run's; without resume it must hold no other run.
        resume: continue from the last checkpoint in folder, bit for bit on the CPU.
        ranks: the place of this process in the run, connected.
    Raises: FileExistsError for a folder that holds a run; BlockingIOError for one that another process is writing;
        CheckpointError where it cannot be resumed; TrainingError;
        RankError; Interrupted at SIGINT or SIGTERM to any rank, with a checkpoint of the step that it ended at; OSError
        naming the file that could not be written; what Experiment raises. What the run has written by then stays, and
        can be resumed.
    """
    if ranks.first and not resume and holds_run(folder):
        raise FileExistsError(f"{folder} holds a run already")
    experiment = Experiment(config, ranks)
    if not ranks.first:
        with Interruptions() as interruptions:
            return _train(experiment, folder, resume, interruptions)
    with Interruptions() as interruptions, alone_in(folder), closing(experiment.logger):
        return _train(experiment, folder, resume, interruptions)


def _train(
    experiment: Experiment, folder: Path, resume: bool, interruptions: Interruptions
) -> dict[str, Any]:
    config, trainer, ranks = experiment.config, experiment.trainer, experiment.ranks
    sampler, validation = experiment.sampler("train"), experiment.sampler("val")
    test = experiment.sampler(
        "test"
    )  # built now, so that a protocol it cannot hold is known before hours of training
    checkpoints = Checkpoints(folder / "checkpoints", trainer.keep)
    state, spent_s = trainer.start(config.seed, experiment.device), 0.0
    ranks.agree("data and versions", {"data": experiment.dataset.describe()["checksum"], **versions()})
    if resume and ranks.first:
        state, spent_s = _restore(experiment, checkpoints, state)
    finished = resume and state.step >= trainer.iterations and (folder / "result.json").is_file()
    if ranks.told(finished):
        return json.loads((folder / "result.json").read_text(encoding="utf-8")) if ranks.first else {}
    state = ranks.shared(state)

    def validate(params: PyTree) -> Evaluation:
        return experiment.evaluate(params, validation, trainer.val_tasks)

    def told_to_stop() -> bool:
        """Asked by all ranks after every step, so that a signal to one ends all of them at the same step."""
        return ranks.any(interruptions.caught is not None)

    if not ranks.first:
        with interruptions.patiently():
            state = trainer.fit(sampler, state, validate=validate, stop=told_to_stop)
            if told_to_stop():
                ranks.wait()  # for the first to write: torchrun ends what is left when one has gone
                raise Interrupted(interruptions.caught or signal.SIGTERM)
        experiment.evaluate(state.params, test, config.evaluation.tasks, record=True)
        return {}
    about = experiment.about()
    began = time.monotonic() - spent_s
    metric = experiment.learner.objective.metric
    best = _best_so_far(checkpoints, state.step, metric)

    def described(result: Evaluation | None) -> dict[str, Any]:
        scores = {f"val/{metric.name}": result.mean, "val/ci95": result.ci95} if result else {}
        return plain({**about, **scores, "seconds": time.monotonic() - began})

    def keep(state: State, result: Evaluation | None) -> None:
        nonlocal best
        if result is not None and metric.better(result.mean, best):
            best = result.mean
            checkpoints.save_best(state, described(result))
        if state.step % trainer.checkpoint_every == 0 or state.step == trainer.iterations:
            metrics.sync()  # a checkpoint vouches for the lines up to its step
            checkpoints.save(state, described(result))

    drop_unfinished(folder)
    checkpoints.tidy(state.step)
    if not resume:
        checkpoints.save(state, described(None))  # so that a run can be resumed from its first moment on
    metrics = Metrics(folder / "metrics.jsonl", after=state.step if resume else None)
    experiment.logger.start(folder, about["config"], resume)
    try:
        with interruptions.patiently(), Progress(trainer.iterations, state.step, metric=metric) as progress:

            def log(line: Log) -> None:
                numbers = line.metrics()
                metrics.write({"step": line.step, "seconds": time.monotonic() - began, **numbers})
                experiment.logger.log(line.step, numbers)
                progress.log(line.step, numbers)

            state = trainer.fit(
                sampler,
                state,
                validate=validate,
                log=log,
                checkpoint=keep,
                tick=progress.tick,
                stop=told_to_stop,
            )
            if told_to_stop():
                if not checkpoints.path(state.step).exists():
                    metrics.sync()
                    checkpoints.save(state, described(None))
                ranks.wait()
                raise Interrupted(interruptions.caught or signal.SIGTERM)
    finally:
        metrics.close()

    tested = experiment.evaluate(state.params, test, config.evaluation.tasks, record=True)
    protocol = experiment.protocol()
    result = plain(
        {
            "metric": metric.name,
            f"test/{metric.name}": tested.mean,
            "test/ci95": tested.ci95,
            "test/loss": tested.loss,
            "test/tasks": len(tested.scores),
            "test/chance": test.chance,
            "iterations": state.step,
            "seconds": time.monotonic() - began,
            "seed": config.seed,
            "protocol": protocol,
            "data": about["data"],
            "versions": about["versions"],
            "device": device_name(experiment.device),
            "ranks": ranks.size,
        }
    )
    results.write(
        folder / "test.safetensors",
        tested,
        metric,
        {"part": "test", "iterations": state.step, "protocol": protocol},
    )
    pictures = draw(experiment, state.params, folder, result)
    write_json(folder / "result.json", result)
    experiment.logger.finish(result, pictures)
    return result


def resumed_config(folder: Path, overrides: Mapping[str, Any]) -> DictConfig:
    """The configuration of the run in folder, from its last good checkpoint, with some values replaced.

    overrides: dotted key → value, of keys that do not change what has been computed already.
    Raises: CheckpointError where there is none, or it is of another run.
    """
    path = Checkpoints(folder / "checkpoints").last()
    expect_own(folder, path)
    config = OmegaConf.create(checkpoint.read_header(path)["composed"])
    for key, value in overrides.items():
        OmegaConf.update(config, key, value, merge=False)  # another logger has other settings
    assert isinstance(config, DictConfig)
    return config


def draw(experiment: Experiment, params: PyTree, folder: Path, result: Mapping[str, Any]) -> dict[str, Path]:
    """The pictures of a finished run: name → path."""
    sampler = experiment.sampler("test")
    title = f"{experiment.dataset.name}, {sampler.title}"
    paths = {"learning_curve": folder / "plots" / "learning_curve.png"}
    plots.learning_curve(
        read_metrics(folder / "metrics.jsonl"),
        paths["learning_curve"],
        title=title,
        chance=sampler.chance,
        result=result,
        metric=experiment.learner.objective.metric,
    )
    if experiment.picture is not None:
        paths["tasks"] = folder / "plots" / "tasks.png"
        steps = experiment.config.evaluation.inner_steps
        experiment.picture(experiment.learner, params, sampler, paths["tasks"], title=title, steps=steps)
    return paths


def sentence(result: Mapping[str, Any], part: str = "test") -> str:
    """A result for people: "test accuracy 92.11% ± 0.51 (95% interval over 600 unseen tasks)"."""
    metric = metric_named(result["metric"])
    value, ci95 = result[f"{part}/{metric.name}"], result[f"{part}/ci95"] or 0.0
    said = "not a finite number" if value is None else metric.said(value, ci95)
    return f"{part} {metric.name} {said} (95% interval over {result[f'{part}/tasks']} unseen tasks)"


def validation_score(folder: Path) -> float | None:
    """The last validation score of the run in folder, an error as its negative, so that more is better; None if none.

    What a search over hyperparameters maximises: the test split has no part in it.
    """
    for line in reversed(read_metrics(folder / "metrics.jsonl")):
        for key, value in line.items():
            metric = metric_named(key.removeprefix("val/"))
            if key.startswith("val/") and metric.name not in ("loss", "ci95") and value is not None:
                return value if metric.higher_is_better else -value
    return None


def _restore(experiment: Experiment, checkpoints: Checkpoints, like: State) -> tuple[State, float]:
    path = checkpoints.last()
    expect_version(path)
    expect_same_data(experiment, path)
    state = checkpoint.load(path, like)
    if state.step > experiment.trainer.iterations:
        raise CheckpointError(
            f"trainer.iterations={experiment.trainer.iterations} is less than the {state.step} steps that {path} has "
            f"behind it; choose trainer.iterations ≥ {state.step}, or start a new run."
        )
    return state, float(checkpoint.read_header(path)["seconds"])


def expect_same_data(experiment: Experiment, path: Path) -> None:
    """Raise CheckpointError where a checkpoint is of a run on other data than the experiment's."""
    was, now = checkpoint.read_header(path)["data"], experiment.dataset.describe()
    for key in ("dataset", "split", "checksum"):
        if was[key] != now[key]:
            raise CheckpointError(
                f"{path} is of a run on other data: {key} was {was[key]!r}, here it is {now[key]!r}. Give the "
                "data_dir that it was trained on."
            )


def _best_so_far(checkpoints: Checkpoints, step: int, metric: Metric) -> float:
    """The best validation score up to a step; one found later, by a run that was then killed, does not count."""
    path = checkpoints.best()
    about = checkpoint.read_header(path) if path else {"step": step + 1}
    return about[f"val/{metric.name}"] if about["step"] <= step else metric.worst
