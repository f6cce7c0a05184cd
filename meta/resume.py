"""Whether a checkpoint is of the run in whose folder it lies, and what may change when that run goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from meta.checkpoint import CheckpointError, Checkpoints, read_header
from meta.experiment import versions

__all__ = ["RESUMABLE", "expect_own", "expect_version", "holds_run", "may_change", "resolved"]

# What may change when a run is resumed: nothing that its past steps depended on. Of a group, everything in it.
RESUMABLE = (
    "resume",
    "data_dir",
    "debug",
    "device",
    "evaluation.batch",
    "logger",
    "rank_timeout_s",
    "trainer.capture",
    "trainer.checkpoint_every",
    "trainer.iterations",
    "trainer.keep",
    "trainer.keep_best",
    "workers",
)
NAMES = {"model": "model", "task": "dataset or task", "algorithm": "algorithm", "optimizer": "optimiser"}

log = logging.getLogger(__name__)


def holds_run(folder: Path) -> bool:
    """Whether a run has written here; a folder with a configuration alone holds one that never began."""
    return (folder / "metrics.jsonl").exists() or bool(Checkpoints(folder / "checkpoints").paths())


def may_change(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in RESUMABLE)


def expect_own(folder: Path, path: Path) -> None:
    """Raise CheckpointError, naming the first difference, if a checkpoint is of another run than its folder.

    A run started from the command line keeps its configuration in .hydra/config.yaml; of another there is nothing to
    compare with.
    """
    place = folder / ".hydra" / "config.yaml"
    try:
        config = OmegaConf.load(place)
    except FileNotFoundError:
        return
    except (OSError, yaml.YAMLError) as error:
        log.warning(
            "%s cannot be read (%s); %s is taken as it is.", place, " ".join(str(error).split()), path
        )
        return
    theirs = _flat(read_header(path)["composed"])
    ours = _flat(OmegaConf.to_container(config)) if isinstance(config, DictConfig) else {}
    for key in sorted({*theirs, *ours}):
        if theirs.get(key) != ours.get(key) and not may_change(key):
            raise CheckpointError(
                f"{path} is of another {NAMES.get(key.partition('.')[0], 'run')}: {key} is {theirs.get(key)!r} in it, "
                f"and {ours.get(key)!r} in {place}. Put a checkpoint of this run in its place, or start a new run."
            )


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


def resolved(config: DictConfig) -> dict[str, Any]:
    """Dotted key → value of every leaf of a configuration, references resolved."""
    return _flat(OmegaConf.to_container(config, resolve=True))


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of every leaf; lists are leaves."""
    if not isinstance(node, Mapping):
        return {prefix[:-1]: node}
    return {
        key: value for name, child in node.items() for key, value in _flat(child, f"{prefix}{name}.").items()
    }
