"""Amounts of memory as people write them."""

from __future__ import annotations

import re

__all__ = ["format_size", "parse_size"]

UNITS = {
    **{"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40},
}
_BY_LOWER = {unit.lower(): size for unit, size in UNITS.items()}


def parse_size(text: str | int, what: str = "memory") -> int:
    """ "2GB", "1.5 GiB" or a number of bytes → bytes: kB, MB, GB of 1000, KiB, MiB, GiB of 1024, in either case.

    Raises: ValueError naming `what`, for another unit, and for what is not above 0.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = (found[2] or "B").lower() if found else ""
    if found is None or isinstance(text, bool) or unit not in _BY_LOWER:
        raise ValueError(
            f"{what}={text} is no amount of memory; write a number with a unit, {what}=2GB: {', '.join(UNITS)}."
        )
    size = round(float(found[1]) * _BY_LOWER[unit])
    if size <= 0:
        raise ValueError(f"{what}={text} must be above 0.")
    return size


def format_size(size: float) -> str:
    """In MB, of 10⁶ bytes, as budgets are given."""
    return f"{size / 1e6:,.0f} MB" if abs(size) >= 9.95e6 else f"{size / 1e6:,.1f} MB"
