"""The command line that trains a run again, as its folder tells it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["command"]

# Of what was typed: how the arms of a sweep were run, and where a run went on, say nothing of how one begins.
NOT_OF_ONE = ("sweep", "resume")
LENGTH = "trainer.iterations"


def command(folder: Path, iterations: int | None = None) -> str | None:
    """What to type for the run in a folder once more, in a new folder: from any place, quoted for a shell.

    Begins where the run began, on whose folder relative paths and imports depend. None where the folder does not tell:
    of a run that was begun in Python.

    Args:
        iterations: that the run has behind it, which are more or less than was typed where it was resumed; None for as
            typed.
    """
    config, hydra, typed = (
        _read(folder / ".hydra" / f"{name}.yaml") for name in ("config", "hydra", "overrides")
    )
    try:
        settings = hydra["hydra"]
        begun, name = settings["runtime"]["cwd"], settings["job"]["config_name"]
        sources, searched = settings["runtime"]["config_sources"], settings["searchpath"]
        overrides = [str(one) for one in typed if _key(str(one)) not in NOT_OF_ONE]
    except (KeyError, TypeError):
        return None
    if iterations is not None and iterations != _value(config, LENGTH):
        overrides = [one for one in overrides if _key(one) != LENGTH] + [f"{LENGTH}={iterations}"]
    options = [] if name == "train" else ["--config-name", str(name)]
    for source in sources:
        if source["provider"] == "command-line":
            options += ["--config-dir", source["path"]]
    if searched:
        overrides.append(f"hydra.searchpath=[{','.join(_quoted(str(one)) for one in searched)}]")
    return f"cd {shlex.quote(str(begun))} && {shlex.join(['python', '-m', 'neo', 'train', *options, *overrides])}"


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
