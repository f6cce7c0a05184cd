"""Sums of tangents: what the product rule is made of."""

from __future__ import annotations

from typing import Any

from neo.kernels import direct

__all__ = ["total"]


def total(*terms: Any) -> Any:
    """The sum of the terms that are not None (zero), broadcast; None where all are."""
    out: Any = None
    for term in terms:
        if term is not None:
            out = term if out is None else direct.add(out, term)
    return out
