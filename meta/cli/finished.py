"""What commands on a finished run share: its folder, and numbers that a full disk does not take away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from meta.cli.overrides import ConfigError
from meta.finished_run import NotWritten

__all__ = ["folder_of", "printing_what_is_not_written"]


def folder_of(config: DictConfig) -> Path:
    """The run's folder. Raises: ConfigError where none is named."""
    if OmegaConf.is_missing(config, "run_dir"):
        raise ConfigError("run_dir is missing; name the folder of a run: run_dir=outputs/...")
    return Path(str(config.run_dir))


@contextmanager
def printing_what_is_not_written(folder: Path, name: str, again: str) -> Iterator[None]:
    """Print what took minutes where it cannot be written, and say so. again: what to do when there is room."""
    try:
        yield
    except NotWritten as error:
        print(json.dumps(error.result, indent=2))
        raise OSError(
            f"{error.filename or folder}: {error.strerror}. The numbers are above, in full; what was written of {name} "
            f"is whole or not there. When there is room or leave to write, {again} for its files."
        ) from error
