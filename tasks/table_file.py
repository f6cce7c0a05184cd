"""Tables of numbers: .csv and .tsv with a header, or an .npz with an array for each column."""

from __future__ import annotations

import csv
import logging
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.errors import DataError, shortened

__all__ = ["SUFFIXES", "Columns", "read"]

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv", ".npz")


class Columns(NamedTuple):
    """Some columns of a table.

    values: (rows, len(numeric)), float64, all finite.
    groups: of each row, as text; None where no column of groups was asked for.
    """

    names: list[str]  # of all columns of the file
    numeric: list[str]
    values: np.ndarray
    groups: list[str] | None


def read(
    file: Path, *, given: Sequence[str] | None, targets: Sequence[str], group: str | None, skip_damaged: bool
) -> Columns:
    """The columns `given` and `targets` as numbers, and `group` as text.

    given: None: all that are neither targets nor the group.
    skip_damaged: rows with a cell that is no finite number are left out, with a warning.
    Raises: DataError naming the columns that are missing, or the cells that are no finite numbers, by line and column.
    """
    try:
        names, cells, lines = _npz(file) if file.suffix.lower() == ".npz" else _csv(file)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"table: {file} cannot be read ({error}); expected a .csv or .tsv in UTF-8 with a header, or an .npz with "
            "a plain array (rows,) for each column."
        ) from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"table: {file} has two columns called {shortened(twice)}; give each its own name.")
    own = [name for name in names if name not in targets and name != group] if given is None else list(given)
    wanted = [*own, *targets, *([group] if group is not None else [])]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise DataError(
            f"table: {file} has no column {shortened(missing)}; it has {', '.join(names) or 'none'}. Name columns by "
            "task.dataset.inputs=[...], task.dataset.outputs=[...] and task.dataset.group=..."
        )
    if not own:
        raise DataError(
            f"table: {file} has no column left for an input: {', '.join(wanted)} are outputs or the group."
        )
    if not cells:
        raise DataError(f"table: {file} has no rows below its header.")
    numeric = [*own, *targets]
    places = [names.index(name) for name in numeric]
    numbers: list[list[float]] = []
    damaged: list[str] = []
    kept: list[list[Any]] = []
    for row, line in zip(cells, lines, strict=True):
        found = [_number(row[place]) for place in places]
        wrong = [
            f"{line}, column {name}: {row[place]!r}"
            for name, place, value in zip(numeric, places, found, strict=True)
            if not math.isfinite(value)
        ]
        if wrong:
            damaged += wrong
        else:
            numbers.append(found)
            kept.append(row)
    if damaged and not (skip_damaged and numbers):
        raise DataError(
            f"table: {len(damaged)} cells of {file} are no finite numbers: {shortened(damaged)}. Mend them, leave "
            "their rows out by task.dataset.skip_damaged=true, or name the columns that are numbers by "
            "task.dataset.inputs=[...]."
        )
    if damaged:
        left_out = len(cells) - len(kept)
        log.warning("table: left out %d of %d rows of %s: %s", left_out, len(cells), file, shortened(damaged))
    groups = None if group is None else [str(row[names.index(group)]).strip() for row in kept]
    if groups is not None and not all(groups):
        raise DataError(f"table: column {group} of {file} is empty in some rows; each row is of some group.")
    return Columns(names, numeric, np.array(numbers, dtype=np.float64), groups)


def _csv(file: Path) -> tuple[list[str], list[list[Any]], list[str]]:
    """Header, rows, and where each row is. Raises: DataError for rows of another length than the header."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.reader(opened, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
        names = [name.strip() for name in next(reader, [])]
        rows, lines, ragged = [], [], []
        for row in reader:
            if not row:
                continue  # an empty line
            if len(row) != len(names):
                ragged.append(f"line {reader.line_num} has {len(row)}")
            rows.append(row)
            lines.append(f"line {reader.line_num}")
    if ragged:
        raise DataError(
            f"table: {file} has {len(names)} columns, but {shortened(ragged)} cells; quote what has a comma in it."
        )
    return names, rows, lines


def _npz(file: Path) -> tuple[list[str], list[list[Any]], list[str]]:
    with np.load(file, allow_pickle=False) as found:
        columns = {name: found[name] for name in found.files}
    shapes = {array.shape for array in columns.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        said = ", ".join(f"{name} {array.shape}" for name, array in columns.items())
        raise DataError(f"table: the arrays of {file} must be (rows,) of one length, got {said or 'none'}.")
    rows: list[list[Any]] = [
        list(row) for row in zip(*(array.tolist() for array in columns.values()), strict=True)
    ]
    return list(columns), rows, [f"row {number}" for number in range(len(rows))]


def _number(cell: Any) -> float:
    """NaN for what is none."""
    try:
        return math.nan if isinstance(cell, str) and "_" in cell else float(cell)
    except (TypeError, ValueError):
        return math.nan
