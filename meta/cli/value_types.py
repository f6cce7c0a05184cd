"""Whether a value typed for a key is of the type that its configuration has there."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["ConfigError", "expect_type", "format_value", "quoted"]

WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
# A string may look like a number (data_dir=2024), and a whole number is a number too.
FITTING: dict[type, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    bool: (bool,),
    str: (str, int, float),
}


class ConfigError(ValueError):
    """A command was given something that its configuration does not have."""


def expect_type(config: DictConfig, key: str, value: Any) -> None:
    """Raise ConfigError where a value is not of the type of the key's default.

    A list is taken in the place of a single value where the annotation of the argument that it is given to, as in
    `adapt: str | Sequence[str]`, has a sequence, and the other way round; a list may be of any length. null is taken
    where it has None, and a mapping with a `_target_` where it has a callable: a schedule in the place of a rate.
    """
    default = None if OmegaConf.is_missing(config, key) else OmegaConf.select(config, key)
    if default is None or _refers(value) or (value is None and types.NoneType in _annotated(config, key)):
        return
    if isinstance(value, dict) and "_target_" in value and Callable in _annotated(config, key):
        return
    wanted: Any
    if isinstance(default, ListConfig):
        if not isinstance(value, list):
            if type(value) in _annotated(config, key):
                return
            raise _wrong(key, value, "a list", default)
        wanted = {type(one) for one in default}
        if len(wanted) == 1:
            for one in value:
                _expect_scalar(key, value, one, wanted.copy().pop(), default)
    elif isinstance(default, DictConfig):
        # A rate takes the place of a schedule of rates.
        if not isinstance(value, dict | None) and not (
            type(value) in (int, float) and float in _annotated(config, key)
        ):
            raise _wrong(key, value, "a mapping", None)
    elif isinstance(value, list) and _annotated(config, key) & {Sequence, list, tuple}:
        if not value:
            raise _wrong(key, value, "a list of one or more", [default])
        for one in value:
            _expect_scalar(key, value, one, type(default), [default])
    else:
        _expect_scalar(key, value, value, type(default), default)


def _expect_scalar(key: str, value: Any, one: Any, wanted: type, default: Any) -> None:
    if wanted not in WORDS or _refers(one):
        return
    if not isinstance(one, FITTING[wanted]) or (isinstance(one, bool) and wanted is not bool):
        within = (
            f": in it, {format_value(one)} is not {WORDS[wanted]}"
            if one is not value
            else f" is not {WORDS[wanted]}"
        )
        raise ConfigError(
            f"{key}={format_value(value)}{within}; expected one like {key}={format_value(default)}."
        )


def _wrong(key: str, value: Any, kind: str, default: Any) -> ConfigError:
    like = "" if default is None else f"; expected one like {key}={format_value(default)}"
    return ConfigError(f"{key}={format_value(value)} is not {kind}{like}.")


def _refers(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _annotated(config: DictConfig, key: str) -> set[Any]:
    """The types in the annotation of the argument that a key is, of its node's _target_; none where nothing tells."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if target is None:
        return set()
    try:
        called = get_object(target)
        # A class may pass on to its bases, by **options, what it does not name itself.
        kinds = called.__mro__ if inspect.isclass(called) else ()
        makers = [vars(kind)["__init__"] for kind in kinds if "__init__" in vars(kind)] or [called]
        hints = (typing.get_type_hints(maker) for maker in makers if hasattr(maker, "__annotations__"))
        hint = next((found[name] for found in hints if name in found), None)
    except (
        ImportError,
        AttributeError,
        NameError,
        TypeError,
        ValueError,
    ):  # no such target, or no such annotations
        return set()
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return {typing.get_origin(one) or one for one in members}


def quoted(value: object) -> str:
    """A value in single quotes, as an override takes any text."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def format_value(value: Any) -> str:
    """A value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | ListConfig):
        return f"[{','.join(format_value(one) for one in value)}]"
    return str(value)
