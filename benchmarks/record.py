"""What a benchmark found, as it is kept: docs/benchmarks.json, by kind of device and work."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

__all__ = ["Found", "Row", "merge", "quartiles", "ratios", "read", "row", "write"]


@dataclass(frozen=True)
class Row:
    """One contender in one work. Ratios are paired: its time over Neo's in the same round, so above 1 Neo is faster."""

    peer: str
    setting: str
    seconds: float  # median, of one unit
    ratio: float  # median
    quartiles: tuple[float, float]  # of the ratios
    peak_bytes: int
    error: float | None = (
        None  # of its float32 result, relative to the float64 one; None where that was not compared
    )
    tasks: int | None = None  # of its meta-batch, where a work has rows for several


@dataclass(frozen=True)
class Found:
    """All of one work."""

    name: str
    title: str
    unit: str
    rounds: int
    machine: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()  # who did not take part, and why; what was checked
    flops: int | None = None  # arithmetic of one unit
    rates: dict[str, float] = field(default_factory=dict)  # of the machine, FLOP/s
    unrolled: tuple[dict[str, float], ...] = ()  # W7: a row for each number of inner steps


def ratios(seconds: Sequence[float], of_neo: Sequence[float]) -> list[float]:
    """Round by round, so that what slows the machine down for a while slows both sides of a ratio."""
    return [theirs / ours for theirs, ours in zip(seconds, of_neo, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.25, 0.75))
    return float(low), float(high)


def row(
    peer: str,
    setting: str,
    seconds: Sequence[float],
    of_neo: Sequence[float],
    per_turn: int,
    peak_bytes: int,
    error: float | None = None,
    tasks: int | None = None,
) -> Row:
    """A contender's turns, in seconds, beside Neo's of the same rounds."""
    paired = ratios(seconds, of_neo)
    return Row(
        peer, setting, median(seconds) / per_turn, median(paired), quartiles(paired), peak_bytes, error, tasks
    )


def read(path: Path) -> dict[str, dict[str, Found]]:
    """Kind of device → name of the work → what was found. Raises: ValueError for a file that is not such a record."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {
            device: _ordered({name: _found(found) for name, found in works.items()})
            for device, works in kept.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a record of scripts/bench.py ({error}); run the benchmark again to write one."
        ) from None


def write(path: Path, record: dict[str, dict[str, Found]]) -> None:
    plain = {
        device: {name: asdict(found) for name, found in works.items()} for device, works in record.items()
    }
    path.write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def merge(
    record: dict[str, dict[str, Found]], device: str, found: Sequence[Found]
) -> dict[str, dict[str, Found]]:
    """The record with the works just measured in the place of their earlier selves, in order of their names."""
    works = {**record.get(device, {}), **{one.name: one for one in found}}
    return {**record, device: _ordered(works)}


def _ordered(works: dict[str, Found]) -> dict[str, Found]:
    """W8, W8-64, W9, W9-84, W10."""
    return dict(
        sorted(works.items(), key=lambda item: [int(number) for number in re.findall(r"\d+", item[0])])
    )


def _found(plain: dict[str, Any]) -> Found:
    rows = tuple(Row(**{**kept, "quartiles": tuple(kept["quartiles"])}) for kept in plain["rows"])
    return Found(
        **{**plain, "rows": rows, "notes": tuple(plain["notes"]), "unrolled": tuple(plain["unrolled"])}
    )
