"""A run's folder, from the command line: a name of its own, and its configuration once the folder is this run's."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from meta.files import atomic_write, make_new_dir

__all__ = ["QUIET", "logged", "own_dir", "write_configuration"]

# Hydra writes a configuration before the function that it calls could say whose the folder is.
QUIET = "hydra.output_subdir=null"


def own_dir(node: DictConfig) -> Path | None:
    """A new folder where a node's `dir` has the time in it, which two runs may have in common; else None.

    Args:
        node: hydra.run or hydra.sweep of a configuration that has been composed.
    Raises: OSError where the folder cannot be made.
    """
    if "${now:" not in str(node._get_node("dir")):
        return None
    try:
        folder = Path(str(node.dir))
    except OmegaConfBaseException:  # it refers to what hydra knows later
        return None
    return make_new_dir(folder)


def write_configuration(folder: Path, config: DictConfig) -> None:
    """What hydra would have left in .hydra/, and resolved.yaml, where config.yaml has references. Each file is whole.

    Only for who has the folder, see meta.files.lock_dir. Raises: OSError; what resolving a reference raises.
    """
    hydra = HydraConfig.get()
    contents: Mapping[str, str] = {
        "resolved": OmegaConf.to_yaml(config, resolve=True),
        "overrides": OmegaConf.to_yaml(hydra.overrides.task),
        "hydra": OmegaConf.to_yaml({"hydra": hydra}),
        "config": OmegaConf.to_yaml(config),
    }
    for name, content in contents.items():
        atomic_write(folder / ".hydra" / f"{name}.yaml", content.encode())


@contextlib.contextmanager
def logged(path: Path) -> Iterator[Callable[[], None]]:
    """Write the log into a file from when the function given is called, with what was logged until then before it.

    So that a run which is refused after a warning leaves its folder's log as it was.
    """
    memory = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    opened: list[logging.Handler] = []

    def begin() -> None:
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
        memory.setTarget(file)
        memory.flush()
        memory.flushLevel = logging.NOTSET  # each line goes through from now on
        opened.append(file)

    logging.root.addHandler(memory)
    try:
        yield begin
    finally:
        logging.root.removeHandler(memory)
        memory.close()
        for file in opened:
            file.close()
