"""A run from its first step to its result, and everything it leaves in its folder.

record.json                 what its numbers depend on, with a hash: meta.record
metrics.jsonl               a line for each logged step
checkpoints/                step-*.safetensors, the last few and the best few; best.safetensors
plots/                      learning_curve and tasks, each as .png, .pdf and .svg: meta.plots
test.safetensors            every test task's results, after each inner step: meta.task_results
result.json                 the test score and its protocol, at the end
stopped.json                in its place: why the run was stopped before its end
result-*.json, test-*.safetensors   the same at an earlier end, of a run that was then made longer
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig

from meta import checkpoint, record, run_summary, task_results
from meta.checkpoint import CheckpointError, Checkpoints
from meta.distributed import ALONE, Ranks
from meta.early_stopping import Patience
from meta.evaluate import Evaluation
from meta.experiment import Experiment
from meta.files import drop_unfinished, lock_dir, write_json
from meta.interruption import STOPPED, Interrupted, Interruptions, Stopped
from meta.machine import device_name, versions
from meta.metrics_file import Metrics, plain, read_metrics
from meta.outcome import draw
from meta.plausibility import LossWatch
from meta.progress import Progress
from meta.resume import expect_same_data, expect_version, holds_run
from meta.trainer import Log, State
from tasks import TaskSampler

__all__ = ["Run"]

LOG = logging.getLogger(__name__)


class Run:
    """One run in its folder: the one path through training, resuming and ranks.

    Of several ranks the first does all reading and writing in the folder; the others compute.

    Args:
        config: conf/train.yaml, composed; with resume, the one of the run: resumed_config(folder).
        folder: the run's; without resume it must hold no other run.
        resume: continue from the last checkpoint in folder, bit for bit on the CPU.
        ranks: the place of this process in the run, connected.
        locked: the caller has the folder already, by meta.files.lock_dir.
        begin: is called once nothing can be refused any more, before anything is written.
        validated: told the step and the score of every validation; gives a reason to stop there, or None.
    Raises: FileExistsError for a folder that holds a run; what Experiment raises.
    """

    def __init__(
        self,
        config: DictConfig,
        folder: Path,
        *,
        resume: bool = False,
        ranks: Ranks = ALONE,
        locked: bool = False,
        begin: Callable[[], None] | None = None,
        validated: Callable[[int, float], str | None] = lambda step, score: None,
    ) -> None:
        if ranks.first and not resume and holds_run(folder):
            raise FileExistsError(f"{folder} holds a run already")
        self.experiment = Experiment(config, ranks)
        self.config, self.folder, self.resume, self.ranks = config, folder, resume, ranks
        self.metric = self.experiment.problem.metric
        trainer = self.experiment.trainer
        self.checkpoints = Checkpoints(folder / "checkpoints", trainer.keep, trainer.keep_best)
        self.interruptions = Interruptions()
        self.locked, self.begin = locked, begin
        self.record: dict[str, Any] | None = None  # of the first rank; None also for a run begun without one
        self.was_finished = False  # whether train() found nothing left to do
        self.validated = validated
        self.reason: str | None = None  # to stop before the last step

    def train(self) -> dict[str, Any]:
        """Meta-train, test once at the end, and give the content of result.json; {} on all ranks but the first.

        Raises: BlockingIOError for a folder that another process is writing; CheckpointError where it cannot be
            resumed; TrainingError; RankError; TypeError or ValueError for a learner whose results have the wrong form;
            Interrupted at SIGINT or SIGTERM to any rank, and Stopped where `validated` or trainer.patience gave a
            reason, with a checkpoint of the step that it ended at; OSError naming the file that could not be written.
            What the run has written by then stays, and can be resumed.
        """
        with self.interruptions, contextlib.ExitStack() as stack:
            if self.ranks.first:
                if not self.locked:
                    stack.enter_context(lock_dir(self.folder))
                if not self.resume and holds_run(self.folder):  # since this object was made
                    raise FileExistsError(f"{self.folder} holds a run already")
                stack.enter_context(contextlib.closing(self.experiment.logger))
            return self._train()

    def _train(self) -> dict[str, Any]:
        experiment, trainer, ranks = self.experiment, self.experiment.trainer, self.ranks
        samplers = {
            part: experiment.sampler(part) for part in ("train", "val", "test")
        }  # all protocols are known now
        fresh = (
            ranks.first and not self.resume
        )  # the others, and a run that goes on, are told what it began at
        start = state = experiment.start() if fresh else trainer.start(experiment.device)
        spent_s = 0.0
        versions_of_all = {"data": experiment.dataset.describe()["checksum"], **versions()}
        ranks.assert_equal("data and versions", versions_of_all)
        if self.resume and ranks.first:
            state, spent_s = self._restore(state)
        elif ranks.first:
            warm = experiment.warm_start
            self.record = record.make(experiment.about(), warm.checksum if warm else None)
        result_path = self.folder / "result.json"
        finished = self.resume and state.step >= trainer.iterations and result_path.is_file()
        self.was_finished = ranks.broadcast_object(finished)
        if self.was_finished:
            return json.loads(result_path.read_text(encoding="utf-8")) if ranks.first else {}
        state = ranks.broadcast(state)
        before = experiment.expect_adaptation(start, samplers["val"])
        if state.step == 0:  # a run that goes on has trained
            experiment.expect_training(start, samplers["train"])
        held_out = experiment.for_tasks_of(samplers["val"], experiment.trained(state))

        def validate(state: State) -> Evaluation:
            return held_out.evaluate(state, samplers["val"], trainer.val_tasks)

        if ranks.first:
            state, seconds = self._fit_and_record(
                state, spent_s, samplers["train"], validate, LossWatch(before.loss)
            )
        else:
            with self.interruptions.patiently():
                state = trainer.fit(samplers["train"], state, validate=validate, stop=self._stopped)
                if self._stopped():
                    self._end_early()
        tested = held_out.evaluate(state, samplers["test"], self.config.evaluation.tasks, record=True)
        return self._conclude(held_out, state, tested, samplers["test"], seconds) if ranks.first else {}

    def _fit_and_record(
        self,
        state: State,
        spent_s: float,
        sampler: Any,
        validate: Callable[[State], Evaluation],
        watch: LossWatch,
    ) -> tuple[State, Callable[[], float]]:
        """Train, with all that the first rank writes meanwhile: the last state, and the seconds the run has taken."""
        experiment, trainer, checkpoints = self.experiment, self.experiment.trainer, self.checkpoints
        about = {**experiment.about(), "record": self.record}
        began = time.monotonic() - spent_s
        best = self._best_so_far(state.step)
        patience = Patience(trainer.patience, self.metric, self._logged_until(state.step))

        def seconds() -> float:
            return time.monotonic() - began

        def described(result: Evaluation | None) -> dict[str, Any]:
            scores = {f"val/{self.metric.name}": result.mean, "val/ci95": result.ci95} if result else {}
            metric = {"metric": self.metric.name, "higher_is_better": self.metric.higher_is_better}
            return plain({**about, **metric, **scores, "seconds": seconds()})

        def keep(state: State, result: Evaluation | None) -> None:
            nonlocal best
            about = described(result)
            if result is not None and self.metric.better(result.mean, best):
                best = result.mean
                checkpoints.save_best(state, about)
            if result is not None:
                impatient = patience.told(state.step, result.mean)
                reason = self.validated(state.step, result.mean) or impatient
                self.reason = reason if state.step < trainer.iterations else None
            due = state.step % trainer.checkpoint_every == 0 or state.step == trainer.iterations
            if due or checkpoints.among_best(about):
                metrics.sync()  # a checkpoint vouches for the lines up to its step
                checkpoints.save(state, about)

        if self.begin is not None:
            self.begin()
        drop_unfinished(self.folder)
        (self.folder / STOPPED).unlink(missing_ok=True)
        checkpoints.tidy(state.step)
        self._set_aside_result()
        if not self.resume:
            write_json(self.folder / record.FILE, self.record or {})
            checkpoints.save(state, described(None))  # so that a run can be resumed from its first moment on
        metrics = Metrics(self.folder / "metrics.jsonl", after=state.step if self.resume else None)
        experiment.logger.start(self.folder, about["config"], self.resume)
        print(run_summary.summary(experiment, state, self.folder, self.resume), flush=True)
        progress = Progress(trainer.iterations, state.step, metric=self.metric)
        pace = run_summary.Pace(state.step, trainer.iterations, experiment.device)

        def tick() -> None:
            progress.tick()
            told = pace.tick()
            if told is not None:
                progress.write(told)

        with contextlib.closing(metrics), self.interruptions.patiently(), progress:

            def log(line: Log) -> None:
                numbers = line.metrics()
                timed = {"seconds": seconds(), **numbers}
                metrics.write({"step": line.step, **timed})
                experiment.logger.log(line.step, timed)
                progress.log(line.step, numbers)
                warning = watch.warning(line.step, line.loss)
                if warning is not None:
                    LOG.warning(warning)

            state = trainer.fit(
                sampler,
                state,
                validate=validate,
                log=log,
                checkpoint=keep,
                tick=tick,
                stop=self._stopped,
            )
            if self._stopped():
                if not checkpoints.path(state.step).exists():
                    metrics.sync()
                    checkpoints.save(state, described(None))
                if self.interruptions.caught is not None:
                    self.reason = None  # a signal ends all that goes on here, and goes before
                if self.reason is not None:
                    write_json(self.folder / STOPPED, {"reason": self.reason, "iterations": state.step})
                self._end_early()
        return state, seconds

    def _conclude(
        self,
        experiment: Experiment,
        state: State,
        tested: Evaluation,
        sampler: TaskSampler,
        seconds: Callable[[], float],
    ) -> dict[str, Any]:
        """Write what the test gave: every task's results, pictures, and result.json last of all.

        experiment: the run's as it evaluates, see Experiment.for_tasks_of.
        """
        folder, name = self.folder, self.metric.name
        protocol, about = experiment.protocol(), experiment.about()
        result = plain(
            {
                "metric": name,
                "higher_is_better": self.metric.higher_is_better,
                f"test/{name}": tested.mean,
                "test/ci95": tested.ci95,
                "test/loss": tested.loss,
                "test/tasks": len(tested.scores),
                "test/chance": sampler.chance,
                "iterations": state.step,
                "seconds": seconds(),
                "seed": self.config.seed,
                "protocol": protocol,
                "data": about["data"],
                "versions": about["versions"],
                "device": device_name(experiment.device),
                "ranks": self.ranks.size,
                "record": self.record,
            }
        )
        kept = {"part": "test", "iterations": state.step, "protocol": protocol, "record": self.record}
        task_results.write(folder / "test.safetensors", tested, self.metric, kept)
        pictures = draw(experiment, state, folder, result)
        write_json(folder / "result.json", result)
        self.experiment.logger.finish(result, pictures)
        return result

    def _stopped(self) -> bool:
        """Asked by all ranks after every step, so that what ends one ends all of them at the same step."""
        return self.ranks.any(self.interruptions.caught is not None or self.reason is not None)

    def _end_early(self) -> NoReturn:
        """Raise Stopped or Interrupted once every rank is here: torchrun ends those left when one has gone."""
        reason = self.ranks.broadcast_object(self.reason)
        self.ranks.barrier()
        if reason is not None:
            raise Stopped(reason)
        raise Interrupted(self.interruptions.caught or signal.SIGTERM)

    def _restore(self, like: State) -> tuple[State, float]:
        path = self.checkpoints.last()
        expect_version(path)
        expect_same_data(self.experiment, path)
        state = checkpoint.load(path, like)
        if state.step > self.experiment.trainer.iterations:
            raise CheckpointError(
                f"trainer.iterations={self.experiment.trainer.iterations} is less than the {state.step} steps that "
                f"{path} has behind it; choose trainer.iterations ≥ {state.step}, or start a new run."
            )
        about = checkpoint.read_header(path)
        self.record = about.get("record")
        return state, float(about["seconds"])

    def _set_aside_result(self) -> None:
        """What a finished run that is made longer has found at its earlier end is kept, as result-<iterations>.json and
        test-<iterations>.safetensors: it is no longer what the run has come to."""
        result = self.folder / "result.json"
        if not result.exists():
            return
        iterations = json.loads(result.read_text(encoding="utf-8"))["iterations"]
        for path in (self.folder / "test.safetensors", result):
            if path.exists():
                path.replace(path.with_stem(f"{path.stem}-{iterations:08d}"))

    def _logged_until(self, step: int) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that a run which goes on after a step keeps."""
        path = self.folder / "metrics.jsonl"
        lines = read_metrics(path) if self.resume and path.exists() else []
        return [line for line in lines if line["step"] <= step]

    def _best_so_far(self, step: int) -> float:
        """The best validation score up to a step; one found later, by a run that was then killed, does not count."""
        path = self.checkpoints.best()
        about = checkpoint.read_header(path) if path else {"step": step + 1}
        return about[f"val/{self.metric.name}"] if about["step"] <= step else self.metric.worst
