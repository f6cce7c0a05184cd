"""What a sweep needs before its first arm runs: its plugin, something to search for, and a folder of its own."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from meta.checkpoint import CheckpointError, Checkpoints, read_header
from meta.cli import folders, searchpath
from meta.cli.arms import arms
from meta.cli.configs import composed
from meta.cli.overrides import ConfigError, check, groups, parse, value_of, values_of
from meta.cli.value_types import format_value, quoted
from meta.files import lock_dir, write_json
from meta.interruption import Stopped
from meta.planning import settled_as_before
from meta.record import flat
from meta.report.arms import FAILURE
from meta.resume import expect_own, holds_run
from meta.targets import expect_targets

__all__ = ["RECORD", "earlier_run", "expect_no_sweep", "prepare", "record_failure", "require"]

RECORD = "sweep.json"  # in a sweep's folder: what its arms have in common, and what was searched

# sweep=... → the module that it needs, and the extra of this package that brings it.
PLUGINS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "sweep"),
    "optuna": ("optuna", "sweep"),
    "successive_halving": ("optuna", "sweep"),
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
    overrides = [*_further(config_name, config, overrides), *overrides]
    searching = str(config.hydra.sweeper._target_).endswith(".OptunaSweeper")
    further = _a_search(config, overrides) if searching else []
    folder = folders.own_dir(config.hydra.sweep) or Path(str(config.hydra.sweep.dir))
    record = {"sweeper": "optuna" if searching else "grid", "overrides": _of_the_arms(overrides)}
    _claim(folder, {**record, "configurations": _configurations(config_name, overrides)})
    return [f"hydra.sweep.dir={quoted(folder)}", *further]  # said once, for its name may hold the time


def earlier_run(folder: Path, config: DictConfig) -> DictConfig | None:
    """The configuration of the run that an arm's folder holds, to be gone on with, or given if it is finished: this
    very one, with what was chosen for trainer.memory. None for a folder without a run.

    Raises: ConfigError where it holds another; CheckpointError where its files are not of one run.
    """
    try:
        path = Checkpoints(folder / "checkpoints").last()
        about = read_header(path)
    except CheckpointError:
        return (
            None  # the first checkpoint is a run's first file; what else is there, train() will not overwrite
        )
    config = settled_as_before(config, about["composed"])
    if about["composed"] != OmegaConf.to_container(config, resolve=False):
        raise ConfigError(f"{folder} holds a run of another configuration; choose another hydra.sweep.dir.")
    expect_own(folder, path)
    return config


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


def _further(config_name: str, config: DictConfig, overrides: Sequence[Override]) -> list[Override]:
    """What a configuration file sweeps over besides, under hydra.sweeper.params; what was typed goes before.

    Raises: ConfigError for a key or a value that could not be typed either.
    """
    params = config.hydra.sweeper.get("params")
    params = OmegaConf.to_container(params) if params else {}
    typed = {override.key_or_group for override in overrides}
    try:
        further = parse([f"{key}={format_value(value)}" for key, value in flat(params).items()])
        further = [override for override in further if override.key_or_group not in typed]
        check(config_name, [*further, *overrides], True, _folders(overrides))
    except ConfigError as error:
        raise ConfigError(f"hydra.sweeper.params: {error}") from error
    return further


def _folders(overrides: Sequence[Override]) -> list[Path]:
    """Where the user's own configuration files are."""
    return searchpath.folders_of(None, value_of(overrides, searchpath.SEARCHPATH))


def _configurations(config_name: str, overrides: Sequence[Override]) -> dict[str, Any]:
    """The choices of swept groups → the configuration of arms that have them, flat, as its files have it now."""
    available, chosen, fixed = groups(_folders(overrides)), {}, []
    for override in overrides:
        key = override.key_or_group
        if _says_how(key) and key != searchpath.SEARCHPATH:
            continue
        if not override.is_sweep_override():
            fixed.append(override.input_line or "")
        elif key in available:
            chosen[key] = [_as_typed(value) for value in values_of(override, True, available[key])]
    found = {
        " ".join(f"{group}={values[0]}" for group, values in arm.chosen.items()): flat(
            OmegaConf.to_container(arm.config, resolve=False)
        )
        for arm in arms(config_name, chosen, fixed)
    }
    return dict(json.loads(json.dumps(found), parse_constant=str))  # as it comes back from a file


def _as_typed(value: Any) -> Any:
    return format_value(value) if isinstance(value, list) else value


def _of_the_arms(overrides: Sequence[Override]) -> list[str]:
    """What decides what the arms are, in a fixed order: not how and where they are run."""
    return sorted(override.input_line or "" for override in overrides if not _says_how(override.key_or_group))


def _says_how(key: str) -> bool:
    """Whether a key decides how and where arms are run, and nothing of what they are."""
    return key == "sweep" or key.startswith(("hydra.", "hydra/"))


def _claim(folder: Path, record: dict[str, Any]) -> None:
    """Make the folder this command's own. Raises: ConfigError; BlockingIOError where another is claiming it."""
    with lock_dir(folder):
        _expect_own(folder, record)


def _changed(was: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str | None:
    """The first key that has become another; None where none has, or nobody knows what they were."""
    for arm, settings in now.items() if was else ():
        before = (was or {}).get(arm, {})
        for key in sorted({*before, *settings}):
            if before.get(key) != settings.get(key) or (key in before) != (key in settings):
                said = f"{key} was {before.get(key)!r}, and is {settings.get(key)!r} now"
                return f"with {arm}, {said}" if len(now) > 1 else said
    return None


def _expect_own(folder: Path, record: dict[str, Any]) -> None:
    path = folder / RECORD
    if path.exists():
        was = json.loads(path.read_text(encoding="utf-8"))
        if any(was[key] != record[key] for key in ("sweeper", "overrides")):
            raise ConfigError(
                f"{folder} holds the sweep of another command ({' '.join(was['overrides'])}); choose another folder: "
                "hydra.sweep.dir=..., or with sweep=optuna another hydra.sweeper.study_name."
            )
        if changed := _changed(was.get("configurations"), record["configurations"]):
            raise ConfigError(
                f"the sweep in {folder} holds a run of another configuration than its files have now: {changed}. Put "
                "them back, or choose another folder: hydra.sweep.dir=..., or with sweep=optuna another "
                "hydra.sweeper.study_name."
            )
        return
    if holds_run(folder) or any(folder.glob(".hydra")) or any(folder.glob("*/.hydra")):
        raise ConfigError(f"{folder} holds runs already; choose another folder: hydra.sweep.dir=...")
    write_json(path, record)
