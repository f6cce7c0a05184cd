"""hydra's sweeper that asks Optuna for trials, lets any launcher run them, and tells Optuna what came of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, Trial, TrialState

from meta.files import lock_dir
from meta.search import outcome, samplers, space, study, summary
from meta.search.outcome import Outcome

__all__ = ["PLUGIN", "OptunaSweeper", "SearchError", "register"]

PLUGIN = "hydra_plugins.neo.OptunaSweeper"

log = logging.getLogger(__name__)


class SearchError(ValueError):
    """A search that it is no use to go on with."""


class OptunaSweeper(Sweeper):
    """A trial is an arm: number 7 runs in folder 7. What a search has done lies in its storage and its folders, so
    that the same command goes on with it wherever it was stopped.

    Args: as conf/sweep/optuna.yaml has them.
    """

    def __init__(
        self,
        study_name: str,
        storage: str,
        objectives: Sequence[str],
        directions: Sequence[str],
        names: Sequence[str],
        sampler: str,
        pruner: str,
        n_trials: int,
        n_jobs: int,
        max_failures: int,
        seed: int,
        params: Mapping[str, Any] | None = None,
        sampler_options: Mapping[str, Any] | None = None,
        pruner_options: Mapping[str, Any] | None = None,
        trial: int | None = None,  # of a run, never of the search
    ) -> None:
        self.study_name, self.storage = study_name, storage
        self.objectives, self.directions, self.names = list(objectives), list(directions), list(names)
        self.sampler, self.sampler_options = sampler, dict(sampler_options or {})
        self.pruner, self.pruner_options = pruner, dict(pruner_options or {})
        self.n_trials, self.n_jobs = n_trials, n_jobs
        self.max_failures, self.seed, self.params = max_failures, seed, dict(params or {})
        self.launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.folder = Path(str(config.hydra.sweep.dir))
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> optuna.Study:
        """Run trials until the study has n_trials of them.

        Raises: ConfigError for a study that is another's; SearchError; BlockingIOError where a search is going on.
        """
        searched = space.read(arguments, self.params)
        pruner = samplers.pruner(self.pruner, self.pruner_options)
        with lock_dir(self.folder):
            OmegaConf.save(self.config, self.folder / "multirun.yaml")
            found = study.opened(self.study_name, self.storage, self.directions, self.names, pruner)
            self._search(found, searched)
        return found

    def _search(self, study: optuna.Study, searched: space.Space) -> None:
        failures = 0
        for left in _running(study):  # by a search that was killed; its run may have ended all the same
            ended = outcome.of_folder(self._place(left.number), self.objectives, self.directions)
            self._tell(study, self._trial(study, left.number), ended)
        while batch := self._batch(study):
            trials, overrides = [], []
            for number in batch:  # proposed at once, while the study has this trial's sampler
                trial = self._trial(study, number)
                told = [f"hydra.sweeper.trial={trial.number}", f"hydra.sweep.subdir={trial.number}"]
                overrides.append([*searched.propose(trial), *told])
                trials.append(trial)
            returned = self.launcher.launch(overrides, initial_job_idx=trials[0].number)
            endings = [self._outcome(trial.number, one) for trial, one in zip(trials, returned, strict=True)]
            for trial, ended in zip(trials, endings, strict=True):
                self._tell(study, trial, ended)
                failures = failures + 1 if ended.state == TrialState.FAIL else 0
            for trial, ended in zip(trials, endings, strict=True):
                if ended.state is None:
                    raise SearchError(
                        f"trial {trial.number}: {ended.reason} Then give the same command again."
                    )
            if failures >= self.max_failures:
                raise SearchError(
                    f"{failures} trials have failed one after another, the last one so: {endings[-1].reason} Mend what "
                    "they have in common and give the same command again with more hydra.sweeper.n_trials, or allow "
                    "more hydra.sweeper.max_failures."
                )
        summary.write(self.folder, study, self.names)
        log.info("%s", summary.sentence(study, self.names))
        if all(trial.state == TrialState.FAIL for trial in study.trials):
            raise SearchError(
                f"every trial failed, the last one so: {study.trials[-1].user_attrs.get('reason')}"
            )

    def _batch(self, study: optuna.Study) -> list[int]:
        """The numbers of the trials to run now: those that a kill cut off first, up to a multiple of n_jobs.

        So that batches begin at the same numbers, and what is proposed has seen the same trials, after a kill too.
        """
        begun = sum(
            trial.state != TrialState.WAITING for trial in study.trials
        )  # others are somebody's wishes
        left = [trial.number for trial in _running(study)]
        end = begun + (-begun % self.n_jobs if left else self.n_jobs - begun % self.n_jobs)
        return [*left, *range(begun, max(begun, min(end, self.n_trials)))]

    def _trial(self, study: optuna.Study, number: int) -> Trial:
        """The trial of this number where it is running, otherwise the next one."""
        study.sampler = self._sampler(number)
        left = {trial.number: trial for trial in _running(study)}
        return Trial(study, left[number]._trial_id) if number in left else study.ask()

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        return samplers.sampler(self.sampler, self.sampler_options, self.seed, number, len(self.objectives))

    def _outcome(self, number: int, returned: JobReturn) -> Outcome:
        if returned.status == JobStatus.FAILED:
            return outcome.of_error(returned._return_value)
        found = outcome.of_folder(self._place(number), self.objectives, self.directions)
        if found.state is None:
            return Outcome(
                TrialState.FAIL, reason=f"the run left neither a result nor why in {self._place(number)}."
            )
        return found

    def _tell(self, study: optuna.Study, trial: Trial, ended: Outcome) -> None:
        if ended.state is None:
            return
        if ended.reason:
            trial.set_user_attr("reason", ended.reason)
        told = study.tell(trial, ended.values, state=ended.state)
        summary.write(self.folder, study, self.names)
        log.info("trial %s: %s", trial.number, summary.described(told, self.names))

    def _place(self, number: int) -> Path:
        return self.folder / str(number)


def register() -> None:
    """Let hydra find the sweeper.

    It takes none whose name does not begin with hydra_plugins. Under such a name, but from here: a package
    hydra_plugins of ours would be imported by every other program that uses hydra.
    """
    Plugins.instance().class_name_to_class[PLUGIN] = OptunaSweeper


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.trials if trial.state == TrialState.RUNNING]
