"""What goes wrong with data, in one sentence that says where, what was expected, what came and what to do."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 5  # names in an error


class DataError(Exception):
    """A data set is missing, damaged or not the one expected; nothing was loaded."""


def shortened(names: Sequence[str], shown: int = SHOWN) -> str:
    """ "a, b, c, d, e and 7 more"."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
