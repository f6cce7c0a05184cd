"""Where configuration files of the user's own lie: --config-dir and hydra.searchpath, alike in every check."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meta.cli.configs import CONF
from meta.cli.value_types import ConfigError, format_value, quoted

__all__ = ["SEARCHPATH", "expect_own_names", "expect_read", "folders_of", "override_of"]

SEARCHPATH = "hydra.searchpath"


def folders_of(config_dir: str | None, searchpath: Any) -> list[Path]:
    """The folders of both, absolute, in the order in which hydra looks into them after Neo's own.

    Args:
        searchpath: what hydra.searchpath was given, None for nothing: folders, as file://conf or conf, and packages, as
            pkg://my_project.conf.
    Raises: ConfigError for what is no list of them, and for a folder or a package that is not there.
    """
    if not isinstance(searchpath, list | None) or not all(isinstance(one, str) for one in searchpath or ()):
        raise ConfigError(
            f"{SEARCHPATH}={format_value(searchpath)} is not a list of places; expected one like "
            f"'{SEARCHPATH}=[file://conf]'."
        )
    found = [] if config_dir is None else [_folder(Path(config_dir), f"--config-dir={config_dir}")]
    for place in searchpath or ():
        scheme, _, rest = place.rpartition("://")
        if scheme == "pkg":
            found += _package(rest, place)
        elif scheme in ("", "file"):
            found.append(_folder(Path(rest), f"{SEARCHPATH}=[{place}]"))
        else:
            raise ConfigError(
                f"{SEARCHPATH}=[{place}]: {scheme}:// is not known; name a folder, file://conf, or a package, "
                "pkg://my_project.conf."
            )
    return list(dict.fromkeys(found))


def override_of(folders: Sequence[Path]) -> list[str]:
    """The override that lets hydra find configuration files in further folders too; none without any."""
    paths = ",".join(quoted(f"file://{folder}") for folder in folders)
    return [f"{SEARCHPATH}=[{paths}]"] if paths else []


def expect_read(config_name: str, folders: Sequence[Path]) -> None:
    """Raise ConfigError where a folder has a file of the name of the command's own configuration, which comes first."""
    for folder in folders:
        path = folder / f"{config_name}.yaml"
        if path.exists() and (CONF / path.name).exists():
            raise ConfigError(
                f"{path} would not be read, for Neo's {path.name} comes before it; put what it sets into "
                f"{folder / 'experiment'}/NAME.yaml, after a line '# @package _global_', and say experiment=NAME."
            )


def expect_own_names(choices: Mapping[str, str], folders: Sequence[Path]) -> None:
    """Raise ConfigError where a choice that was made has a file in a folder, and another of Neo's before it."""
    for group, choice in choices.items():
        name = Path(group, f"{choice}.yaml")
        for folder in folders:
            if (folder / name).exists() and (CONF / name).exists():
                raise ConfigError(
                    f"{folder / name} would not be read, for Neo has a {group}={choice} of its own, which comes before "
                    "it; give the file another name."
                )


def _folder(folder: Path, given: str) -> Path:
    if not folder.is_dir():
        raise ConfigError(
            f"{given}: there is no folder {folder.absolute()}; start the command beside it, or give its whole path."
        )
    return folder.absolute()


def _package(name: str, place: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # of a parent that is not there, or no name at all
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"{SEARCHPATH}=[{place}]: there is no package {name!r}; it must be installed, on PYTHONPATH, or in the "
            f"folder that the command is started in ({Path.cwd()})."
        )
    return [Path(location).absolute() for location in spec.submodule_search_locations]
