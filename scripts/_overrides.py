"""What is typed after a command, checked against its configuration before anything runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

__all__ = ["ConfigError", "check", "parse", "value_of"]

TYPES = {int: "an integer", float: "a number", bool: "true or false", str: "a word"}


class ConfigError(ValueError):
    """A command was given something that its configuration does not have."""


def parse(arguments: Sequence[str]) -> list[Override]:
    """`key=value` arguments as hydra understands them. Raises: ConfigError for one that it does not."""
    parser = OverridesParser.create()
    overrides = []
    for argument in arguments:
        try:
            overrides.append(parser.parse_override(argument))
        except HydraException:
            raise ConfigError(
                f"{argument!r} is no override; write key=value, and quote a value with odd characters in it: key='...'."
            ) from None
    return overrides


def value_of(overrides: Iterable[Override], key: str) -> Any:
    """The last value given for a key, without its quotes; None if there is none."""
    given = [override for override in overrides if override.key_or_group == key]
    return _unquoted(given[-1].value()) if given else None


def check(config_name: str, overrides: Sequence[Override], sweeping: bool) -> None:
    """Raise ConfigError unless every key exists, every choice has a file, and values are of their default's type."""
    choices = groups()
    choices["device"] += _numbered_gpus(overrides, sweeping)
    composed: list[str] = []
    for override in overrides:
        key = override.key_or_group
        if key in choices:
            for value in _values(override, sweeping):
                _expect_choice(key, value, choices[key])
                choice = "null" if value is None else value
                composed = [*[c for c in composed if not c.startswith(f"{key}=")], f"{key}={choice}"]
    with initialize_config_module("conf", version_base="1.3"):
        reference = compose(config_name, overrides=composed)
    known = leaves(reference)
    for override in overrides:
        key = override.key_or_group
        if key in choices or key.split(".")[0] == "hydra" or key.startswith("hydra/") or override.is_delete():
            continue
        if key not in known or override.is_add():
            raise ConfigError(_unknown(key, [*known, *choices]))
        for value in _values(override, sweeping):
            _expect_type(key, value, known[key])


def groups() -> dict[str, list[str]]:
    """The config groups with the choices of each."""
    folders = [
        entry for entry in files("conf").iterdir() if entry.is_dir() and not entry.name.startswith("_")
    ]
    return {
        folder.name: sorted(
            file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")
        )
        for folder in folders
    }


def _numbered_gpus(overrides: Sequence[Override], sweeping: bool) -> list[str]:
    """The cuda:0, cuda:1 ... among the devices asked for, made choices of their group like those that have files."""
    asked = [value for o in overrides if o.key_or_group == "device" for value in _values(o, sweeping)]
    numbered = [value for value in asked if re.fullmatch(r"cuda:\d+", str(value))]
    for value in numbered:
        ConfigStore.instance().store(value, {"device": value}, group="device", package="_global_")
    return numbered


def leaves(config: DictConfig) -> dict[str, Any]:
    """Every dotted key with its value, interpolations resolved where that is possible; inner nodes with None."""
    found: dict[str, Any] = {}

    def visit(node: DictConfig, prefix: str) -> None:
        for key in node:
            name = f"{prefix}{key!s}"
            child = None if OmegaConf.is_missing(node, key) else node[key]
            if isinstance(child, DictConfig):
                found[name] = None
                visit(child, f"{name}.")
            else:
                found[name] = child

    visit(config, "")
    return found


def _values(override: Override, sweeping: bool) -> list[Any]:
    value: Any = override.value()
    if not override.is_sweep_override():
        return [_unquoted(value)]
    if not sweeping:
        raise ConfigError(
            f"{override.key_or_group}={override.get_value_string()} gives several values; add -m to sweep over them, "
            "or quote it if it is one."
        )
    # What a range or an interval holds is checked as it is run.
    return [_unquoted(one) for one in value.list] if isinstance(value, ChoiceSweep) else []


def _unquoted(value: Any) -> Any:
    return getattr(value, "text", value)


def _expect_choice(group: str, value: Any, choices: Sequence[str]) -> None:
    if value is None or (isinstance(value, str) and value in choices):
        return
    near = _nearest(str(value), choices)
    raise ConfigError(
        f"{group}={value} is no choice that there is{near}; expected one of {', '.join(choices) or 'none'}."
    )


def _expect_type(key: str, value: Any, default: Any) -> None:
    wanted = type(default)
    if default is None or wanted not in TYPES or (isinstance(value, str) and "${" in value):
        return
    # Words may look like numbers (data_dir=2024), and a whole number is a number too.
    fits = {int: (int,), float: (int, float), bool: (bool,), str: (str, int, float)}[wanted]
    if not isinstance(value, fits) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{key}={value} is not {TYPES[wanted]}; expected one like {key}={_said(default)}.")


def _unknown(key: str, known: Sequence[str]) -> str:
    return f"{key} is no key of this configuration{_nearest(key, known)}; --cfg job prints them all."


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not near:  # perhaps only the group was left out: inner_lr for algorithm.inner_lr
        tails: dict[str, str] = {}
        for name in known:
            tails.setdefault(name.rpartition(".")[2], name)
        near = [
            tails[tail]
            for tail in difflib.get_close_matches(word.rpartition(".")[2], list(tails), n=1, cutoff=0.6)
        ]
    return f"; did you mean {near[0]}?" if near else ""


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
