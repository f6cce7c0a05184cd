"""The configurations that a command composes: one, or with groups that are swept one for each choice."""

from __future__ import annotations

import difflib
import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from meta.cli.configs import CONF
from meta.cli.value_types import ConfigError

__all__ = ["Arm", "arms", "leaves", "nearest", "separate_sweeps"]

FOLDER = "hydra.sweep.dir"
MOST = 16  # arms that are composed, a sixth of a second each, before groups are varied one at a time


@dataclass(frozen=True)
class Arm:
    """A configuration with the choices that were typed for its groups, each a list of one, and those of all groups."""

    chosen: Mapping[str, list[Any]]
    config: DictConfig
    choices: Mapping[str, str]

    @cached_property
    def keys(self) -> Mapping[str, Any]:
        return leaves(self.config)

    @cached_property
    def _open(self) -> list[str]:
        """Mappings by the name of options: any key may be given below them, for what is built to accept or refuse."""
        return [f"{key}." for key in self.keys if key.split(".")[-1] == "options"]

    def has(self, key: str) -> bool:
        return key in self.keys or any(key.startswith(start) and key != start for start in self._open)

    def choice(self, group: str) -> str:
        """The choice of a group, typed or by default, as far as the configuration tells."""
        typed = self.chosen.get(group)
        return str(typed[0]) if typed else "(its default)"


def arms(config_name: str, chosen: Mapping[str, Sequence[Any]], fixed: Sequence[str] = ()) -> list[Arm]:
    """Every combination of the choices given for groups, the last one last; of very many, those that differ from it
    in one group.

    Args:
        chosen: group → its choices.
        fixed: further overrides of every arm.
    """
    given = {group: list(dict.fromkeys(values)) for group, values in chosen.items() if values}
    if math.prod(map(len, given.values())) <= MOST:
        combinations = [
            dict(zip(given, values, strict=True)) for values in itertools.product(*given.values())
        ]
    else:
        last = {group: values[-1] for group, values in given.items()}
        combinations = [{**last, group: value} for group, values in given.items() for value in values[:-1]]
        combinations.append(last)
    found = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for choices in combinations:
            typed = [f"{group}={'null' if value is None else value}" for group, value in choices.items()]
            config = compose(config_name, [*fixed, *typed], return_hydra_config=True)
            made = {
                group: choice for group, choice in config.hydra.runtime.choices.items() if choice is not None
            }
            with open_dict(config):
                del config["hydra"]
            for group, choice in made.items():
                if isinstance(config.get(group), ListConfig):
                    raise ConfigError(f"{group}={choice} is a list, and must be a file of keys and values.")
            found.append(Arm({group: [value] for group, value in choices.items()}, config, made))
    return found


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


def nearest(word: str, known: Sequence[str]) -> str:
    """ "; did you mean ...?" where one of the known keys or choices is near, else nothing."""
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


def separate_sweeps(
    key: str, found: Sequence[Arm], overrides: Sequence[Override], flags: Sequence[str] = ()
) -> str:
    """What to type where only some arms of a sweep have a key: arms that have the same of the keys go together."""
    group, values = _deciding(key, found)
    given = {override.key_or_group for override in overrides if override.key_or_group != group}
    alike: dict[frozenset[str], list[Any]] = {}
    lacking = []
    for value in values:
        own = [arm for arm in found if arm.chosen[group] == [value]]
        alike.setdefault(frozenset(k for k in given if all(arm.has(k) for arm in own)), []).append(value)
        if not all(arm.has(key) for arm in own):
            lacking.append(f"{group}={value}")
    partial = frozenset.union(*alike) - frozenset.intersection(*alike)
    folder, commands = "multirun/compared", []
    for override in overrides:
        if override.key_or_group == FOLDER:
            folder = override.get_value_string()
    for number, (having, of_them) in enumerate(alike.items(), 1):
        choices = ",".join("null" if one is None else str(one) for one in of_them)
        typed = [
            f"{group}={choices}" if override.key_or_group == group else override.input_line or ""
            for override in overrides
            if override.key_or_group not in (partial - having) | {FOLDER}
        ]
        commands.append(f"-m {shlex.join([*flags, *typed, f'{FOLDER}={folder}/{number}'])}")
    return (
        f"unknown key {key!r} for {' and '.join(lacking)}, where it would do nothing. Run one sweep over the choices "
        f"that have it and one over the others: {' and '.join(commands)}. One page shows them all: "
        f"scripts/report.py {folder}."
    )


def _deciding(key: str, found: Sequence[Arm]) -> tuple[str, list[Any]]:
    """The swept group that decides whether an arm has a key, with its choices in order."""
    swept = {
        group: values
        for group in found[-1].chosen
        if len(values := list(dict.fromkeys(arm.chosen[group][0] for arm in found))) > 1
    }
    for group, values in swept.items():
        had = [{arm.has(key) for arm in found if arm.chosen[group] == [value]} for value in values]
        if all(len(one) == 1 for one in had) and any(one != had[0] for one in had):
            return group, values
    return next(iter(swept.items()))  # only several groups together decide
