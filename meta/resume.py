"""Going on with a run: its configuration, and whether a checkpoint is of the run in whose folder it lies, of the same
data, and of the Neo that would go on with it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from meta.checkpoint import CheckpointError, Checkpoints, read_header
from meta.experiment import Experiment
from meta.machine import versions
from meta.record import disagreements, flat, may_change

__all__ = ["expect_own", "expect_same_data", "expect_version", "holds_run", "resumed_config"]

NAMES = {"model": "model", "task": "dataset or task", "algorithm": "algorithm", "optimizer": "optimiser"}

log = logging.getLogger(__name__)


def holds_run(folder: Path) -> bool:
    """Whether a run has written here; a folder with a configuration alone holds one that never began."""
    return (folder / "metrics.jsonl").exists() or bool(Checkpoints(folder / "checkpoints").paths())


def expect_own(folder: Path, path: Path) -> None:
    """Raise CheckpointError, naming the first difference, if a checkpoint is of another run than its folder.

    What the checkpoint and result.json say of their run is compared with .hydra/config.yaml, where there is one, and
    with record.json, which runs of Neo 0.1.0 have not: a warning says so.
    """
    about = read_header(path)
    _expect_configuration(folder / ".hydra" / "config.yaml", path, about["composed"])
    copies = {path: about.get("record")}
    result = folder / "result.json"
    if result.exists():
        copies[result] = _record_of(result)
    found = disagreements(folder, copies)
    if found:
        raise CheckpointError(
            f"the files in {folder} are not all of one run: {'; '.join(found)}. Put the file that belongs there in its "
            "place, or start a new run."
        )
    if about.get("record") is None:
        log.warning(
            "%s has no record of its run, as of Neo 0.1.0: only its configuration can be checked.", path
        )


def _expect_configuration(place: Path, path: Path, composed: Any) -> None:
    try:
        config = OmegaConf.load(place)
    except FileNotFoundError:
        return
    except (OSError, yaml.YAMLError) as error:
        log.warning(
            "%s cannot be read (%s); %s is taken as it is.", place, " ".join(str(error).split()), path
        )
        return
    theirs = flat(composed)
    ours = flat(OmegaConf.to_container(config)) if isinstance(config, DictConfig) else {}
    for key in sorted({*theirs, *ours}):
        if theirs.get(key) != ours.get(key) and not may_change(key):
            raise CheckpointError(
                f"{path} is of another {NAMES.get(key.partition('.')[0], 'run')}: {key} is {theirs.get(key)!r} in it, "
                f"and {ours.get(key)!r} in {place}. Put a checkpoint of this run in its place, or start a new run."
            )


def _record_of(result: Path) -> Any:
    try:
        return json.loads(result.read_text(encoding="utf-8")).get("record")
    except (OSError, ValueError, AttributeError):
        return None


def expect_version(path: Path) -> None:
    """Raise CheckpointError unless this Neo wrote the checkpoint; warn where something else has another version."""
    was, now = read_header(path)["versions"], versions()
    if was["neo"] != now["neo"]:
        raise CheckpointError(
            f"{path} was written by version {was['neo']} of Neo, this is {now['neo']}, whose steps may differ; resume "
            f"it with version {was['neo']}, or start a new run."
        )
    for name in sorted(now):
        if was.get(name) != now[name]:
            log.warning(
                "%s was %s when %s was written, now it is %s: the run goes on, but perhaps not bit for bit.",
                *(name, was.get(name), path, now[name]),
            )


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Dotted key → value of every leaf of a configuration, references resolved."""
    return flat(OmegaConf.to_container(config, resolve=True))


def resumed_config(folder: Path, overrides: Mapping[str, Any]) -> DictConfig:
    """The configuration of the run in folder, from its last good checkpoint, with some values replaced.

    overrides: dotted key → value, of keys that do not change what has been computed already.
    Raises: CheckpointError where there is none, or it is of another run.
    """
    path = Checkpoints(folder / "checkpoints").last()
    expect_own(folder, path)
    config = OmegaConf.create(read_header(path)["composed"])
    assert isinstance(config, DictConfig)
    before = _resolved(config)
    for key, value in overrides.items():
        OmegaConf.update(config, key, value, merge=False)  # another logger has other settings
    # A schedule of the outer rate over trainer.iterations, say, would have been another from the first step on.
    length = "trainer.iterations"
    after = _resolved(config)
    for key in sorted(before) if length in overrides else ():
        if before[key] != after.get(key) and not (key in overrides or may_change(key)):
            raise CheckpointError(
                f"{length}={after[length]} makes {key} {after[key]}, and it was {before[key]} in the past steps of the "
                f"run in {folder}; resume it with {length}={before[length]}. A run that is to be made longer begins "
                f"with a number for {key}; a new run with init_from={folder} goes on from what this one has learned."
            )
    return config


def expect_same_data(experiment: Experiment, path: Path) -> None:
    """Raise CheckpointError where a checkpoint is of a run on other data than the experiment's."""
    was, now = read_header(path)["data"], experiment.data()
    for key in ("dataset", "split", "checksum"):
        if was[key] != now[key]:
            raise CheckpointError(
                f"{path} is of a run on other data: {key} was {was[key]!r}, here it is {now[key]!r}. Give the "
                "data_dir that it was trained on."
            )
    key = "model_constants"
    if key in was and was[key] != now.get(key):
        raise CheckpointError(
            f"{path} is of a run whose model has other constants (frozen weights, running statistics): their checksum "
            f"was {was[key][:12]}, here it is {str(now.get(key))[:12]}. Give the file that it was trained with, "
            f"model.weights={experiment.config.model.get('weights')}."
        )
