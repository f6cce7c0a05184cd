"""metrics.jsonl: a line of JSON for each logged step, written through at once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta.checkpoint import write_whole

__all__ = ["Metrics", "plain", "read_metrics"]


class Metrics:
    """Appends lines to a file; each has reached the operating system when write() returns.

    Args:
        path: made here; FileExistsError if a run has written it already, unless `after` is given.
        after: continue a run after this step: its later lines, and a last line cut short, are dropped first.
    """

    def __init__(self, path: Path, after: int | None = None) -> None:
        if after is not None:
            kept = [line for line in read_metrics(path) if line["step"] <= after] if path.exists() else []
            write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = open(path, "x" if after is None else "a", encoding="utf-8")  # noqa: SIM115 (close() is below)

    def write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(plain(line), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl in their order. A last line cut short by a kill is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    whole = lines[:-1]  # what follows the last line end is empty, or cut short
    return [json.loads(line) for line in whole if line]


def plain(value: Any) -> Any:
    """The same with None for numbers that JSON cannot say (NaN, infinity)."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
