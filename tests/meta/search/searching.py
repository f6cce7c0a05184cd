"""A search without hydra and without training: its launcher writes the folders of runs by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from meta.files import write_json
from meta.interruption import STOPPED
from meta.search.sweeper import OptunaSweeper
from tests.meta.report.folders import write_run

SPACE = ["algorithm.inner_lr=tag(log, interval(0.01, 1))", "algorithm.inner_steps=1,5"]


class Killed(BaseException):
    """What the launcher raises where a test wants the search dead."""


class Launcher:
    """Keeps what it was asked to run. run: trial number → a validation score, an error, or why it was stopped."""

    def __init__(self, folder: Path, run: Callable[[int], float | BaseException | str]) -> None:
        self.folder, self.run = folder, run
        self.batches: list[list[int]] = []

    def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        numbers = [int(one[-1].removeprefix("hydra.sweep.subdir=")) for one in overrides]
        self.batches.append(numbers)
        return [self._launch(number) for number in numbers]

    def _launch(self, number: int) -> JobReturn:
        came = self.run(number)
        returned = JobReturn(status=JobStatus.COMPLETED)
        if isinstance(came, Exception):
            returned.status, returned._return_value = JobStatus.FAILED, came
        elif isinstance(came, BaseException):
            raise came
        elif isinstance(came, str):
            write_json(self.folder / str(number) / STOPPED, {"reason": came})
        else:
            write_run(self.folder / str(number), val=came)
        return returned


class Searching(OptunaSweeper):
    """With a launcher and a folder from the start, which setup() would take from hydra."""

    def __init__(self, launcher: Any, folder: Path, **settings: Any) -> None:
        super().__init__(**settings)
        self.launcher, self.folder, self.config = launcher, folder, OmegaConf.create({})


def search(
    folder: Path,
    run: Callable[[int], float | BaseException | str],
    space: Sequence[str] = SPACE,
    **settings: Any,
) -> tuple[optuna.Study, Launcher]:
    """Search to the end: the study, and the launcher that ran it."""
    told: dict[str, Any] = {
        "study_name": "study",
        "storage": f"sqlite:///{folder}/study.db",
        "objectives": ["score"],
        "directions": ["maximize"],
        "names": ["accuracy"],
        "sampler": "tpe",
        "pruner": "none",
        "n_trials": 6,
        "n_jobs": 1,
        "max_failures": 5,
        "seed": 0,
    }
    launcher = Launcher(folder, run)
    return Searching(launcher, folder, **told | settings).sweep(list(space)), launcher
