"""What a sweep needs before its first arm runs: its plugin, something to search for, and a folder of its own."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from meta.checkpoint import CheckpointError, Checkpoints, read_header
from meta.cli import folders
from meta.cli.configs import composed
from meta.cli.overrides import ConfigError, value_of
from meta.cli.value_types import quoted
from meta.files import lock_dir, write_json
from meta.interruption import Stopped
from meta.report.arms import FAILURE
from meta.resume import expect_own, holds_run
from meta.targets import expect_targets

__all__ = ["RECORD", "expect_no_sweep", "holds_this_run", "prepare", "record_failure", "require"]

RECORD = "sweep.json"  # in a sweep's folder: what its arms have in common, and what was searched

# sweep=... → the module that it needs, and the extra of this package that brings it.
PLUGINS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "sweep"),
    "optuna": ("optuna", "sweep"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
}
OPTUNA = 5  # whose tables and distributions meta.search takes for granted


def require(choice: object) -> None:
    """Raise ConfigError where what sweep=choice needs is not installed."""
    module, extra = PLUGINS.get(str(choice), ("hydra", ""))
    if not installed(module):
        raise ConfigError(
            f"sweep={choice} needs {module}, which is not installed; pip install 'neo-meta[{extra}]'."
        )
    if module == "optuna":
        found = importlib.metadata.version(module)
        if int(found.split(".")[0]) < OPTUNA:
            raise ConfigError(
                f"sweep={choice} needs optuna {OPTUNA} or newer, found {found}; pip install -U 'neo-meta[{extra}]'. "
                "hydra-optuna-sweeper, which holds optuna back, is needed no more: pip uninstall it."
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
    a search runs the trials that it lacks. Raises: ConfigError for a folder of another command, or a search that cannot
    be.
    """
    config = _composed(config_name, overrides)
    expect_targets(config)
    searching = str(config.hydra.sweeper._target_).endswith(".OptunaSweeper")
    further = _a_search(config, overrides) if searching else []
    folder = folders.own_dir(config.hydra.sweep) or Path(str(config.hydra.sweep.dir))
    _claim(folder, {"sweeper": "optuna" if searching else "grid", "overrides": _of_the_arms(overrides)})
    return [f"hydra.sweep.dir={quoted(folder)}", *further]  # said once, for its name may hold the time


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
    except Stopped:  # by a search: no failure
        raise
    except Exception as error:
        if not begun:
            raise
        with contextlib.suppress(OSError):  # a full disk, say: the error itself is what matters
            write_json(note, {"error": type(error).__name__, "sentence": " ".join(str(error).split())})
        raise


def _composed(config_name: str, overrides: Sequence[Override]) -> DictConfig:
    fixed = [override.input_line or "" for override in overrides if not override.is_sweep_override()]
    return composed(config_name, fixed, with_hydra=True)


def _a_search(config: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """Look at what a search is told: the overrides that it needs besides. Raises: ConfigError where it cannot be."""
    require("optuna")
    from meta.search import settings, sweeper  # here, for most sweeps need no Optuna

    sweeper.register()
    settings.check(config, overrides)
    return settings.looked_for(config)


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
