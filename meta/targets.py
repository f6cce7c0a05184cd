"""What a configuration's _target_s take: asked before a run has a folder, and before anything is built."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig

from meta.imports import expect_known_arguments, located

__all__ = ["expect_targets"]


def expect_targets(node: DictConfig | ListConfig) -> None:
    """Raise ValueError where a _target_ cannot be imported, or is given what it does not take.

    Looks at a node and at all below it, but for hydra's own part, and for what lies in mappings that say
    _recursive_: false, whose _target_ looks at it itself.
    """
    if isinstance(node, DictConfig) and "_target_" in node:
        key = str(node._get_full_key(None))
        given = [str(name) for name in node if not str(name).startswith("_")]
        target = located(str(node["_target_"]), f"{key}._target_")
        expect_known_arguments(target, given, what=str(node["_target_"]), key=key)
        if node.get("_recursive_") is False:
            return
    names: Any = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for name in names:
        child = node._get_node(name)
        if not isinstance(child, DictConfig | ListConfig) or name == "hydra":
            continue
        if not (child._is_none() or child._is_missing() or child._is_interpolation()):
            expect_targets(child)
