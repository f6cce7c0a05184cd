"""metrics.jsonl: a line of JSON for each logged step, written through at once."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta.files import atomic_write, naming

__all__ = ["Metrics", "MetricsError", "plain", "read_metrics"]


class MetricsError(ValueError):
    """A metrics.jsonl holds something else than lines of JSON."""


class Metrics:
    """Appends lines to a file; each has reached the operating system when write() returns, the disk after sync().

    Args:
        path: made here; FileExistsError if a run has written it already, unless `after` is given.
        after: continue a run after this step: its later lines, and a last line cut short, are dropped first.
    Raises: OSError naming the file, for a full disk as well; of a line that did not fit nothing is left.
    """

    def __init__(self, path: Path, after: int | None = None) -> None:
        self.path = path
        if after is not None:
            kept = [line for line in read_metrics(path) if line["step"] <= after] if path.exists() else []
            atomic_write(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        # Without a buffer, so that no line can wait in one that a full disk refuses to take.
        self._file = open(path, "xb" if after is None else "ab", buffering=0)  # noqa: SIM115 (close() is below)

    def write(self, line: Mapping[str, Any]) -> None:
        content = (json.dumps(plain(line), allow_nan=False) + "\n").encode()
        before = os.fstat(self._file.fileno()).st_size
        with naming(self.path):
            try:
                while content:
                    content = content[self._file.write(content) :]
            except BaseException:
                with contextlib.suppress(OSError):
                    self._file.truncate(before)
                raise

    def sync(self) -> None:
        """Until what has been written is on the disk."""
        with naming(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl in their order. A last line cut short by a kill is left out.

    Raises: MetricsError naming the line that is damaged.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    read = []
    for number, line in enumerate(
        lines[:-1], start=1
    ):  # what follows the last line end is empty, or cut short
        if not line:
            continue
        try:
            entry = json.loads(line)
            entry["step"]
        except (ValueError, TypeError, KeyError):
            raise MetricsError(
                f"{path}: line {number} is damaged, expected JSON with a step, got {line[:40]!r}; delete that line."
            ) from None
        read.append(entry)
    return read


def plain(value: Any) -> Any:
    """The same with None for numbers that JSON cannot say (NaN, infinity)."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
