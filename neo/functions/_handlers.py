"""torch callable → the function that answers it on LiteTensors. registry.py fills it, in_place.py reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["handlers"]

handlers: dict[Any, Callable[..., Any]] = {}
