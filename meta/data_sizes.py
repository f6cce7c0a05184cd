"""Sizes of a model that only the data can tell: data.inputs in a configuration is how many inputs there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tasks import TaskSource

__all__ = ["fitted"]

PREFIX = "data."
SIZES = ("inputs", "outputs", "vocabulary", "length")  # that sources have


def fitted(node: DictConfig, data: Callable[[], TaskSource]) -> DictConfig:
    """A node of a configuration with the source's own sizes in the place of data.inputs, data.outputs and so on.

    data: gives the source, whose `sizes`, where it has them, are name → number. Called only where one is asked for.
    Raises: ValueError for a size that the source does not have, naming the key.
    """
    plain = OmegaConf.to_container(node, resolve=True)
    if not any(_asked(value) for value in _leaves(plain)):
        return node
    source = data()
    found: Mapping[str, int] = getattr(source, "sizes", {})
    key = str(node._get_full_key(None))
    made = OmegaConf.create({key: _filled(plain, found, key, source.name)})
    filled: DictConfig = made[key]
    return filled


def _filled(value: Any, found: Mapping[str, int], key: str, name: str) -> Any:
    if isinstance(value, dict):
        return {one: _filled(inner, found, f"{key}.{one}", name) for one, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, found, f"{key}[{place}]", name) for place, inner in enumerate(value)]
    if not _asked(value):
        return value
    size = value.removeprefix(PREFIX)
    if size not in found:
        has = ", ".join(f"data.{one}" for one in found) or "no sizes of that kind"
        raise ValueError(
            f"{key}={value}: the data of {name} say nothing of {size} (there are {has}); give a number."
        )
    return found[size]


def _asked(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(PREFIX) and value.removeprefix(PREFIX) in SIZES


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        return [
            leaf
            for inner in (value.values() if isinstance(value, dict) else value)
            for leaf in _leaves(inner)
        ]
    return [value]
