"""Names for what travels through the engine."""

from __future__ import annotations

from typing import Any, TypeAlias

from neo.autograd.tensor import LiteTensor

Params: TypeAlias = dict[str, LiteTensor]
"""A model's parameters by dotted name, "conv0.weight"; a flat dict, so that names can be matched and saved."""

PyTree: TypeAlias = Any
"""LiteTensors in nested dicts, lists, tuples and dataclasses, as neo.pytree flattens them."""
