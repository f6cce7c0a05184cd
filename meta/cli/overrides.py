"""What is typed after a command, checked against its configuration before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from meta.cli import searchpath
from meta.cli.arms import Arm, arms, leaves, nearest, separate_sweeps
from meta.cli.configs import CONF
from meta.cli.experiments import expect_known_settings
from meta.cli.value_types import ConfigError, expect_type, format_value

__all__ = ["ConfigError", "check", "groups", "leaves", "parse", "value_of", "values_of"]

OPTIONS = ("hydra.sweeper.sampler_options", "hydra.sweeper.pruner_options")  # any key may be given below them
SEVERAL = ("logger",)  # groups that take a list of choices
RENAMED = {  # keys of earlier versions, for the error alone
    **{f"logger.{key}": f"logger.wandb.{key}" for key in ("project", "name", "timeout_s")},
    "task.dataset.drawings": "task.dataset.images_per_class",
    "task.objective": "task.problem",
    "task.objective.inner_reduction": "task.problem.inner_reduction",
}


def parse(arguments: Sequence[str]) -> list[Override]:
    """`key=value` arguments as hydra understands them. Raises: ConfigError for one that it does not."""
    parser = OverridesParser.create()
    overrides = []
    for argument in arguments:
        try:
            overrides.append(parser.parse_override(argument))
        except HydraException:
            raise ConfigError(
                f"invalid override {argument!r}; write key=value, and quote a value with special characters: key='...'."
            ) from None
    return overrides


def value_of(overrides: Iterable[Override], key: str) -> Any:
    """The last value given for a key, without its quotes; None if there is none."""
    given = [override for override in overrides if override.key_or_group == key]
    return _unquoted(given[-1].value()) if given else None


def check(
    config_name: str,
    overrides: Sequence[Override],
    sweeping: bool,
    folders: Sequence[Path] = (),
    flags: Sequence[str] = (),
) -> list[str]:
    """The overrides as hydra takes them; ConfigError where one would change nothing, or not what it says.

    Every key must exist (in every arm of a sweep), every choice have a file, and values be of their default's type, or
    of one that the annotation of what they are given to allows. Below a mapping that is empty in the configuration,
    as options: {}, any key may be given.

    Args:
        folders: of further configuration files, beside conf/: see meta.cli.searchpath.
        flags: what else was typed, for the commands that an error recommends.
    Returns: without hydra.searchpath, which the folders stand for.
    """
    choices = groups(folders)
    choices["device"] += _numbered_gpus(overrides, sweeping)
    chosen: dict[str, list[Any]] = {}
    searched = searchpath.override_of(folders)
    searchpath.expect_read(config_name, folders)
    for override in overrides:
        key = override.key_or_group
        if key in choices:
            values = values_of(override, sweeping, choices[key])
            for value in values:
                for one in value if key in SEVERAL and isinstance(value, list) else [value]:
                    _expect_choice(key, one, choices[key])
            chosen[key] = [format_value(value) if isinstance(value, list) else value for value in values]
    found = arms(config_name, chosen, searched)
    for arm in found:
        searchpath.expect_own_names(arm.choices, folders)
        expect_known_settings(config_name, arm, searched)
    checked = []
    for override in overrides:
        key, line = override.key_or_group, override.input_line or ""
        if key == searchpath.SEARCHPATH:
            continue
        if _of_hydra(key) or key in choices or override.is_delete():
            plain = not override.is_add() and not override.is_force_add() and not override.is_delete()
            opened = plain and key.startswith(OPTIONS)
            checked.append(f"++{line}" if opened else line)
            continue
        having = [arm for arm in found if arm.has(key)]
        opened = any(key not in arm.keys for arm in having)
        if not having or (override.is_add() and not opened):
            raise ConfigError(_unknown(config_name, key, found[-1], choices, searched))
        if len(having) < len(found):
            raise ConfigError(separate_sweeps(key, found, overrides, flags))
        for arm in having:
            for value in values_of(override, sweeping):
                expect_type(arm.config, key, value)
        plain = not override.is_add() and not override.is_force_add()
        checked.append(f"++{line}" if opened and plain else line)
    return checked


def groups(folders: Sequence[Path] = ()) -> dict[str, list[str]]:
    """The config groups with the choices of each, those of further folders among them."""
    found: dict[str, set[str]] = {}
    for root in (CONF, *folders):
        for entry in root.iterdir():
            if entry.is_dir() and not entry.name.startswith("_"):
                names = {
                    file.name.removesuffix(".yaml") for file in entry.iterdir() if file.name.endswith(".yaml")
                }
                found.setdefault(entry.name, set()).update(names)
    return {group: sorted(names) for group, names in found.items() if names}


def _resolves(arm: Arm) -> bool:
    """False where the choices of its groups do not go together: model=conv4 wants the ways that task=sinusoid lacks."""
    try:
        return bool(arm.keys)
    except OmegaConfBaseException:
        return False


def _of_hydra(key: str) -> bool:
    return key.split(".")[0] == "hydra" or key.startswith("hydra/")


def _numbered_gpus(overrides: Sequence[Override], sweeping: bool) -> list[str]:
    """The cuda:0, cuda:1 ... among the devices asked for, made choices of their group like those that have files."""
    asked = [value for o in overrides if o.key_or_group == "device" for value in values_of(o, sweeping)]
    numbered = [value for value in asked if re.fullmatch(r"cuda:\d+", str(value))]
    for value in numbered:
        ConfigStore.instance().store(value, {"device": value}, group="device", package="_global_")
    return numbered


def values_of(override: Override, sweeping: bool, choices: Sequence[str] = ()) -> list[Any]:
    """What a key is to be, one value for a single run. choices: what a glob picks from."""
    value: Any = override.value()
    if not override.is_sweep_override():
        return [_unquoted(value)]
    if not sweeping:
        raise ConfigError(
            f"{override.key_or_group}={override.get_value_string()} gives several values; add -m to sweep over them, "
            "or quote it if it is one."
        )
    if isinstance(value, Glob):
        return list(value.filter(list(choices)))
    # What a range or an interval holds is checked as it is run.
    return [_unquoted(one) for one in value.list] if isinstance(value, ChoiceSweep) else []


def _unquoted(value: Any) -> Any:
    if isinstance(value, list):
        return [_unquoted(one) for one in value]
    if isinstance(value, dict):
        return {key: _unquoted(one) for key, one in value.items()}
    return getattr(value, "text", value)


def _expect_choice(group: str, value: Any, choices: Sequence[str]) -> None:
    if value is None or (isinstance(value, str) and value in choices):
        return
    beside = sorted(path.parts[-3] for path in Path.cwd().glob(f"*/{group}/{escape(str(value))}.yaml"))
    if beside:
        raise ConfigError(
            f"{beside[0]}/{group}/{value}.yaml is not looked for without --config-dir {beside[0]}; add that."
        )
    near = nearest(str(value), choices)
    raise ConfigError(
        f"invalid {group} {str(value)!r}{near}; expected one of {', '.join(choices) or 'none'}."
    )


def _unknown(
    config_name: str, key: str, arm: Arm, choices: Mapping[str, Sequence[str]], searched: Sequence[str]
) -> str:
    """What to do about a key that the configuration lacks: another choice of its group may have it."""
    if key in RENAMED:
        return f"unknown key {key!r}; its name is {RENAMED[key]} now."
    group = key.split(".")[0]
    if "." in key and group in choices and group in arm.keys:
        others = arms(config_name, {**arm.chosen, group: list(choices[group])}, searched)
        having = [str(other.chosen[group][0]) for other in others if _resolves(other) and other.has(key)]
        if having:
            return (
                f"unknown key {key!r} for {group}={arm.choice(group)}; "
                f"{' and '.join(f'{group}={name}' for name in having)} {'have' if having[1:] else 'has'} it."
            )
    return f"unknown key {key!r}{nearest(key, [*arm.keys, *choices])}; --cfg job prints all keys."
