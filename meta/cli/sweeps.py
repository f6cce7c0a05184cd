"""What a sweep needs before its first arm runs: its plugin, something to search for, and a folder of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from meta.checkpoint import CheckpointError, Checkpoints, read_header
from meta.cli import folders
from meta.cli.configs import composed
from meta.cli.overrides import ConfigError, quoted, value_of
from meta.files import lock_dir, write_json
from meta.report.arms import FAILURE
from meta.resume import expect_own, holds_run

__all__ = ["RECORD", "expect_no_sweep", "holds_this_run", "prepare", "record_failure", "require"]

RECORD = "sweep.json"  # in a sweep's folder: what its arms have in common, and what was searched

# sweep=... → the hydra plugin that it needs, and the extra of this package that brings it.
PLUGINS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "sweep"),
    "optuna": ("hydra_plugins.hydra_optuna_sweeper", "sweep"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
}


def require(choice: object) -> None:
    """Raise ConfigError where what sweep=choice needs is not installed."""
    module, extra = PLUGINS.get(str(choice), ("hydra", ""))
    if not installed(module):
        raise ConfigError(
            f"sweep={choice} needs {module}, which is not installed; pip install 'neo-meta[{extra}]'."
        )


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the namespace hydra_plugins is there
        return False


def expect_no_sweep(overrides: Sequence[Override]) -> None:
    """Raise ConfigError where a single run was told how to sweep."""
    chosen = value_of(overrides, "sweep")
    if chosen in PLUGINS:
        raise ConfigError(f"sweep={chosen} says how the arms of a sweep are run; add -m to run several.")


def prepare(config_name: str, overrides: Sequence[Override]) -> list[str]:
    """Look at a sweep's folder before hydra writes into it, and give the overrides that keep its arms apart.

    A folder that the same command has begun is gone on with: arms that are finished are left alone, others continue,
    an Optuna study gets further trials. Raises: ConfigError for a folder of another command, or a search for nothing.
    """
    config = _composed(config_name, overrides)
    searching = "optuna" in str(config.hydra.sweeper._target_)
    if searching:
        _expect_a_search(config, overrides)
    folder = folders.own_dir(config.hydra.sweep) or Path(str(config.hydra.sweep.dir))
    _claim(folder, {"sweeper": "optuna" if searching else "grid", "overrides": _of_the_arms(overrides)})
    further = [f"hydra.sweep.dir={quoted(folder)}"]  # said once, for its name may hold the time
    if searching:
        begun = sum((arm / ".hydra").is_dir() for arm in folder.iterdir())
        seed = config.hydra.sweeper.sampler.get("seed")
        further.append(f"hydra.sweep.subdir='${{plus:${{hydra.job.num}},{begun}}}'")
        if begun and seed is not None:
            further.append(f"hydra.sweeper.sampler.seed={seed + begun}")
    return further


def holds_this_run(folder: Path, config: DictConfig) -> bool:
    """Whether an arm's folder holds a run of this very configuration, to be gone on with, or given if it is finished.

    Raises: ConfigError where it holds another; CheckpointError where its files are not of one run.
    """
    try:
        path = Checkpoints(folder / "checkpoints").last()
        about = read_header(path)
    except CheckpointError:
        return False  # the first checkpoint is a run's first file; what else is there, train() will not overwrite
    if about["composed"] != OmegaConf.to_container(config, resolve=False):
        raise ConfigError(f"{folder} holds a run of another configuration; choose another hydra.sweep.dir.")
    expect_own(folder, path)
    return True


@contextlib.contextmanager
def record_failure(folder: Path) -> Iterator[Callable[[], None]]:
    """Leave the error that ends a run in its folder, where a report finds it.

    From when the function given is called, which removes an earlier one: a run that is refused before it begins has not
    failed, and its folder stays as it is.
    """
    note, begun = folder / FAILURE, False

    def begin() -> None:
        nonlocal begun
        begun = True
        note.unlink(missing_ok=True)

    try:
        yield begin
    except Exception as error:
        if not begun:
            raise
        with contextlib.suppress(OSError):  # a full disk, say: the error itself is what matters
            write_json(note, {"error": type(error).__name__, "sentence": " ".join(str(error).split())})
        raise


def _composed(config_name: str, overrides: Sequence[Override]) -> DictConfig:
    fixed = [override.input_line or "" for override in overrides if not override.is_sweep_override()]
    return composed(config_name, fixed, with_hydra=True)


def _expect_a_search(config: DictConfig, overrides: Sequence[Override]) -> None:
    if not any(override.is_sweep_override() for override in overrides) and not config.hydra.sweeper.params:
        raise ConfigError(
            "sweep=optuna was given nothing to search; give a range to some value, as "
            "'algorithm.inner_lr=tag(log, interval(0.01, 1))' or algorithm.inner_steps=1,5."
        )
    if config.trainer.val_every == 0:
        raise ConfigError(
            "sweep=optuna looks for the best validation score, and trainer.val_every=0 leaves none; choose "
            "trainer.val_every ≥ 1."
        )


def _of_the_arms(overrides: Sequence[Override]) -> list[str]:
    """What decides what the arms are, in a fixed order: not how and where they are run."""
    return sorted(
        override.input_line or ""
        for override in overrides
        if override.key_or_group != "sweep" and not override.key_or_group.startswith(("hydra.", "hydra/"))
    )


def _claim(folder: Path, record: dict[str, object]) -> None:
    """Make the folder this command's own. Raises: ConfigError; BlockingIOError where another is claiming it."""
    with lock_dir(folder):
        _expect_own(folder, record)


def _expect_own(folder: Path, record: dict[str, object]) -> None:
    path = folder / RECORD
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != record:
            was = " ".join(json.loads(path.read_text(encoding="utf-8"))["overrides"])
            raise ConfigError(
                f"{folder} holds the sweep of another command ({was}); choose another folder: hydra.sweep.dir=..., or "
                "with sweep=optuna another hydra.sweeper.study_name."
            )
        return
    if holds_run(folder) or any(folder.glob(".hydra")) or any(folder.glob("*/.hydra")):
        raise ConfigError(f"{folder} holds runs already; choose another folder: hydra.sweep.dir=...")
    write_json(path, record)


def plus(one: object, other: object) -> int:
    """${plus:1,2} in a configuration."""
    return int(str(one)) + int(str(other))


OmegaConf.register_new_resolver("plus", plus, replace=True)
