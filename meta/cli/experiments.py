"""What an experiment file sets: only what its other choices have, and values of the same types."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from meta.cli.arms import Arm, arms, nearest
from meta.cli.value_types import ConfigError, expect_type

__all__ = ["expect_known_settings"]

GROUP = "experiment"


def expect_known_settings(config_name: str, arm: Arm, fixed: Sequence[str]) -> None:
    """Raise ConfigError where an experiment sets a key that is not in the configuration without it, or to another type.

    Hydra takes any key from a file: trainer.iteration would be there beside trainer.iterations.

    Args:
        fixed: further overrides, as arms() takes them.
    Cost: composes one configuration more, where there is an experiment.
    """
    experiment = arm.choices.get(GROUP)
    if experiment is None:
        return
    others = {group: [choice] for group, choice in arm.choices.items() if group in arm.config}
    (plain,) = arms(config_name, others, fixed)
    for key in arm.keys:
        value = OmegaConf.select(arm.config, key, throw_on_missing=False)
        if isinstance(value, DictConfig) and isinstance(OmegaConf.select(plain.config, key), DictConfig):
            continue
        parent = key.rpartition(".")[0]
        if parent and not isinstance(OmegaConf.select(plain.config, parent), DictConfig):
            continue  # a mapping in the place of a value, which was looked at as such
        if not plain.has(key):
            known = nearest(key, list(plain.keys))
            raise ConfigError(f"{GROUP}={experiment} sets {key!r}, which nothing reads{known or '.'}")
        try:
            expect_type(
                plain.config, key, OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
            )
        except ConfigError as error:
            raise ConfigError(f"{GROUP}={experiment} sets {error}") from None
