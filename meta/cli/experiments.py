"""What an experiment file sets: only what its other choices have, and values of the same types."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from meta.cli.arms import Arm, arms, nearest
from meta.cli.value_types import ConfigError, expect_type

__all__ = ["expect_known_settings"]

GROUP = "experiment"


def expect_known_settings(config_name: str, arm: Arm, fixed: Sequence[str]) -> None:
    """Raise ConfigError where an experiment sets a key that is not in the configuration without it, or to another type.

    Hydra takes any key from a file: trainer.iteration would be there beside trainer.iterations. A key of its own
    must be one that a reference reads, ${width}.

    Args:
        fixed: further overrides, as arms() takes them.
    Cost: composes one configuration more, where there is an experiment.
    """
    experiment = arm.choices.get(GROUP)
    if experiment is None:
        return
    others = {group: [choice] for group, choice in arm.choices.items() if group in arm.config}
    (plain,) = arms(config_name, others, fixed)
    known = dict(_settings(OmegaConf.to_container(plain.config, resolve=False)))
    references = " ".join(re.findall(r"\$\{.*\}", OmegaConf.to_yaml(arm.config)))
    for key, raw in _settings(OmegaConf.to_container(arm.config, resolve=False)):
        parent = key.rpartition(".")[0]
        if key in known and not (isinstance(raw, dict) and isinstance(known[key], dict)):
            value = OmegaConf.select(arm.config, key)
            plain_value = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
            # A default that the experiment alone makes resolvable has no type without it.
            with contextlib.suppress(InterpolationResolutionError), _said_of(experiment):
                expect_type(plain.config, key, plain_value)
        elif key not in known and isinstance(known.get(parent, {}), dict):
            optional = "options" in parent.split(".")  # which are open to any
            if not optional and not re.search(rf"(?<![\w.]){re.escape(key)}(?![\w])", references):
                near = nearest(key, list(known))
                raise ConfigError(f"{GROUP}={experiment} sets {key!r}, which nothing reads{near or '.'}")


def _settings(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key with its value as it is written, mappings before what is in them."""
    for name, value in node.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{name}.")


@contextlib.contextmanager
def _said_of(experiment: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{GROUP}={experiment} sets {error}") from None
