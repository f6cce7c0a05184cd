"""A finished run, opened to be looked at on tasks of a protocol of its own or another one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from meta import checkpoint
from meta.experiment import Experiment
from meta.files import expect_writable
from meta.loading import checkpoint_paths, loaded
from meta.resume import expect_own, expect_same_data
from meta.trained import Trained
from tasks import TaskSampler

__all__ = ["FinishedRun", "NotWritten", "expect_name"]

TAKEN = ("failure", "metrics", "result", "test")  # names of what training leaves in the folder
SAMPLED = ("ways", "shots", "queries", "rotations")  # what tasks are made of


class NotWritten(OSError):
    """What was found could not be written; `result` has it."""

    def __init__(self, error: OSError, result: dict[str, Any]) -> None:
        super().__init__(error.errno, error.strerror or str(error), error.filename)
        self.result = result


@dataclass(frozen=True)
class FinishedRun:
    """A checkpoint of a run, with the tasks to take it to.

    experiment: as the overrides have it, and looking at as many outputs as its tasks have ways.
    about: what the checkpoint says of the run.
    """

    experiment: Experiment
    trained: Trained
    sampler: TaskSampler
    paths: list[Path]
    about: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path, part: str, which: str, overrides: Mapping[str, Any]) -> FinishedRun:
        """
        Args:
            part: "train", "val" or "test".
            which: "last", "best" or "ensemble", see meta.load.
            overrides: key → value in place of those that the run was configured with: ways, shots, queries, rotations
                (of the tasks drawn), or dotted keys.
        Raises: CheckpointError for a folder without such a checkpoint, or with one of another run, or other data than
            the run was trained on; ValueError for tasks that the data or the model cannot hold; OSError for a folder
            that cannot be written.
        """
        paths = checkpoint_paths(folder, which)
        for path in paths:
            expect_own(folder, path)
        for place in (folder, folder / "plots"):
            if place == folder or place.exists():
                expect_writable(place)
        about = checkpoint.read_header(paths[0])
        experiment = Experiment(_configured(about, overrides))
        expect_same_data(experiment, paths[0])
        trained = loaded(experiment, paths, which)
        sampler = experiment.sampler(part)
        fitted = experiment.for_tasks_of(sampler, trained)
        if fitted is not experiment:
            experiment, trained = fitted, loaded(fitted, paths, which)
        return cls(experiment, trained, sampler, paths, about)


def expect_name(name: str, what: str) -> None:
    """Raise ValueError unless a name can be that of files beside those that training leaves. what: "an evaluation"."""
    if not re.fullmatch(r"\w[\w.-]*", name) or name in TAKEN:
        raise ValueError(
            f"name={name!r} cannot name {what}'s files; use letters, digits, _, . and -, and none of "
            f"{', '.join(TAKEN)}."
        )


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
