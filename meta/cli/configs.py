"""Where the commands' configurations lie, and composing one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

__all__ = ["CONF", "composed"]

# Beside the packages, in a checkout as in an installation. Found as files and never imported: any folder on the user's
# path that is also called conf would be found in its place.
CONF = Path(__file__).absolute().parents[2] / "conf"


def composed(config_name: str, overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """conf/<config_name>.yaml with overrides; with_hydra: and with hydra's own part, under `hydra`."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config_name, list(overrides), return_hydra_config=with_hydra)
