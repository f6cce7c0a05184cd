"""metrics.csv in the run's folder: a row for each logged step, as a spreadsheet or pandas opens it."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meta.files import atomic_write, naming
from meta.loggers.logger import Logger
from meta.metrics_file import plain, read_metrics

__all__ = ["CSV"]

FILE = "metrics.csv"


class CSV(Logger):
    """One wide table: step, seconds, train/loss ...; an empty cell where a step has no such metric, or it is NaN.

    A row is one write, so that a run that is killed leaves whole rows. A metric that comes later (val/... with the
    first validation) is a new column on the right, for which the file is written anew, whole or not at all. At the
    start it is written from metrics.jsonl: a resumed run's has each step once, also where it had another logger before.
    """

    name = "csv"

    def __init__(self) -> None:
        self._path: Path | None = None
        self._columns: dict[str, None] = {}  # in order

    def start(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        self._path = folder / FILE
        self._columns = dict.fromkeys(("step", "seconds"))
        self._write_all(read_metrics(folder / "metrics.jsonl"))

    def destination(self) -> str | None:
        return str(self._path)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        row = plain({"step": step, **metrics})
        if row.keys() <= self._columns.keys():
            self._append(self._format([row]))
            return
        with open(self._place, encoding="utf-8", newline="") as file:
            self._write_all([*csv.DictReader(file), row])

    @property
    def _place(self) -> Path:
        assert self._path is not None, "start() comes first"
        return self._path

    def _format(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, list(self._columns), lineterminator="\n").writerows(rows)
        return text.getvalue().encode()

    def _write_all(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._columns |= dict.fromkeys(row)
        header = dict(zip(self._columns, self._columns, strict=True))
        atomic_write(self._place, self._format([header, *rows]))

    def _append(self, content: bytes) -> None:
        """Raises: OSError; of a row that did not fit nothing is left."""
        with naming(self._place), open(self._place, "ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                while content:
                    content = content[file.write(content) :]
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise
