"""Regression from a table: a task is the rows of one group, some of them known, others to be predicted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks import table_file
from tasks.class_splits import by_fractions, read_split
from tasks.errors import DataError, shortened
from tasks.hashing import derive
from tasks.sampler import LEAST
from tasks.streams import PARTS, TaskStream
from tasks.task import Batch, Task

__all__ = ["Table", "TableSampler"]

SCALES = ("support", "train", "none")
SMALL = 1e-6  # of a column's deviation over the training tasks: a deviation below is that of a constant


class Table:
    """Rows of numbers in groups, and which groups meta-train, meta-val and meta-test use.

    Args:
        data: a .csv or .tsv with a header, or an .npz with an array (rows,) for each column; or a folder of such files,
            or a list of them, with the same columns.
        outputs: columns that are predicted; must be given.
        inputs: columns that are given; None: all but the outputs and the group.
        group: column whose values say which task a row is of. None: of files, each is a task. With both, a task is a
            group of a file.
        split: a text file with [train], [val] and [test] above the names of their groups, a line each, or a folder with
            train.txt, val.txt and test.txt; groups in none are left out. None: by fractions. The name of a file is that
            without its ending; of a group in it "file/group".
        fractions: of the groups that train, validate and test; drawn by `seed`, a function of the groups' names.
        seed: any integer; part of the data, not of a run.
        skip_damaged: leave out rows with a cell that is no finite number. False: an error that names all of them.
    Raises: DataError naming what is missing, damaged or does not fit, before anything is trained.
    Cost: all rows in memory, as float64.
    """

    name = "table"

    def __init__(
        self,
        data: str | Path | Sequence[str | Path],
        *,
        outputs: Sequence[str] | None,
        inputs: Sequence[str] | None = None,
        group: str | None = None,
        split: str | Path | None = None,
        fractions: Sequence[float] = (0.64, 0.16, 0.2),
        seed: int = 0,
        skip_damaged: bool = False,
    ) -> None:
        if not outputs:
            raise DataError(
                "table: which columns are to be predicted? Name them by task.dataset.outputs=[column,...]."
            )
        twice = sorted({*outputs} & {*(inputs or ()), group})
        if twice:
            raise DataError(
                f"table: {shortened(twice)} cannot be an output and an input or the group as well."
            )
        files, several = _files(data)
        if group is None and not several:
            raise DataError(
                f"table: which rows of {files[0]} are one task? Name the column that says so by "
                "task.dataset.group=..., or give a folder with a file for each task."
            )
        read = [
            table_file.read(file, given=inputs, targets=outputs, group=group, skip_damaged=skip_damaged)
            for file in files
        ]
        for file, one in zip(files, read, strict=True):
            if one.numeric != read[0].numeric:
                raise DataError(
                    f"table: {file} has the columns {', '.join(one.numeric)}, and {files[0]} has "
                    f"{', '.join(read[0].numeric)}; all need the same ones, in one order. Name the inputs by "
                    "task.dataset.inputs=[...]."
                )
        stems = [file.stem if several else "" for file in files]
        names = [
            "/".join(part for part in (stem, own) if part)
            for stem, one in zip(stems, read, strict=True)
            for own in one.groups or [""] * len(one.values)
        ]
        columns = read[0].numeric
        self.outputs = tuple(outputs)
        self.inputs = tuple(columns[: len(columns) - len(outputs)])
        self.source = str(data) if isinstance(data, str | Path) else f"{len(files)} files"
        self.groups = tuple(sorted(set(names)))
        if split is not None:
            parts = read_split(Path(split).expanduser(), self.name)
            unknown = sorted({one for own in parts.values() for one in own} - {*self.groups})
            if unknown:
                raise DataError(f"table: the split names {shortened(unknown)}, of which there are no rows.")
            self.split = f"groups of {Path(split).name}"
        else:
            parts = by_fractions(self.groups, fractions, seed, self.name, "groups")
            self.split = f"fractions={'/'.join(map(str, fractions))},seed={seed}"
        self.parts = parts
        values = np.concatenate([one.values for one in read])
        self._rows = _by_group(values, names)
        trained = np.concatenate([self._rows[one] for one in parts["train"]])
        deviation = trained.std(0)
        self.mean = trained.mean(0)  # of each column over the rows of the training groups
        self.std = np.where(deviation > 0, deviation, 1.0)

    @property
    def sizes(self) -> dict[str, int]:
        """What a model is fitted to: data.inputs and data.outputs in its configuration."""
        return {"inputs": len(self.inputs), "outputs": len(self.outputs)}

    def rows(self, part: str) -> list[np.ndarray]:
        """The rows of each group of a part, (rows, inputs + outputs) float64, in an order that is theirs alone."""
        return [self._rows[name] for name in self.parts[part]]

    def sampler(
        self,
        part: str,
        *,
        shots: int,
        queries: int,
        seed: int,
        scale: str = "train",
        device: str | torch.device = "cpu",
    ) -> TableSampler:
        """The tasks of a part ("train", "val" or "test"); see TableSampler."""
        return TableSampler(self, part, shots=shots, queries=queries, seed=seed, scale=scale, device=device)

    def describe(self) -> dict[str, Any]:
        """What a result must say about its data, plain. The checksum is of rows, columns and parts, in any order."""
        digest = hashlib.sha256(json.dumps([self.inputs, self.outputs, self.parts]).encode())
        for name in self.groups:
            digest.update(f"{name} {len(self._rows[name])}\n".encode() + self._rows[name].tobytes())
        return {
            "dataset": self.name,
            "split": self.split,
            "parts_of": "groups",
            "rows": sum(map(len, self._rows.values())),
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            **{part: len(self.parts[part]) for part in PARTS},
            "checksum": digest.hexdigest(),
            "source": self.source,
        }

    def __repr__(self) -> str:
        rows = sum(map(len, self._rows.values()))
        parts = "/".join(str(len(self.parts[part])) for part in PARTS)
        return f"Table({rows} rows, {', '.join(self.inputs)} → {', '.join(self.outputs)}, split {self.split} {parts})"


class TableSampler(TaskStream):
    """Draws meta-batches of groups, and rows of each: a pure function of (seed, split, iteration, slot).

    Args:
        shots, queries: rows of the support (≥ 1) and of the query set (≥ 1), all different.
        scale: by what inputs and outputs are standardised, and so in which unit errors are said. "train": mean and
            deviation over the rows of the training groups, the same for all tasks. "support": mean and deviation of the
            task's own support set, of few rows a small number now and then, so that the errors of some tasks are large;
            a column that does not vary there is divided by its deviation over the training groups. "none": as they are.
        others: as tasks.streams.TaskStream has them.
    Raises: ValueError naming the argument, or the groups that have fewer than shots + queries rows.
    """

    def __init__(self, source: Table, part: str, *, scale: str = "train", **settings: Any) -> None:
        super().__init__(source, part, **settings)
        if scale not in SCALES:
            raise ValueError(f"TableSampler: scale={scale!r} must be one of {', '.join(SCALES)}.")
        self.scale = scale
        groups, needed = source.rows(part), self.shots + self.queries
        few = [
            f"{name} has {len(rows)}"
            for name, rows in zip(source.parts[part], groups, strict=True)
            if len(rows) < needed
        ]
        if few:
            raise ValueError(
                f"TableSampler: shots={self.shots} and queries={self.queries} need {needed} rows of each group, and "
                f"{shortened(few)}; choose fewer, or leave these groups out by task.dataset.split=..."
            )
        # Float32 only once offsets as large as a year or a time stamp are gone.
        moved = [rows if scale == "none" else (rows - source.mean) / source.std for rows in groups]
        self._values = torch.from_numpy(np.concatenate(moved)).to(torch.float32).to(self.device)
        counts = torch.tensor([len(rows) for rows in groups], device=self.device)
        self._counts, self._starts = counts, counts.cumsum(0) - counts
        self._numbers = torch.arange(int(counts.max()), device=self.device)
        self._inputs = len(source.inputs)
        outputs = [rows[:, self._inputs :] for rows in moved]
        self.chance = float(np.mean([(one**2).mean() for one in outputs])) if scale == "train" else None
        """The mean squared error of the training rows' mean, whatever is asked; None where the unit is a task's own."""

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; arguments as EpisodeSampler.sample has them.

        Returns: support.x (slots, shots, inputs) float32, support.y (slots, shots, outputs), query likewise.
        """
        group, rows = self.draw(iteration, slots)
        values = self._values[self._starts[group][:, None] + rows]
        if self.scale == "support":
            known = values[:, : self.shots]
            deviation, mean = torch.std_mean(known, 1, correction=0, keepdim=True)
            values = (values - mean) / torch.where(deviation > SMALL, deviation, 1.0)
        x, y = values.split([self._inputs, values.shape[-1] - self._inputs], -1)
        shots = self.shots
        return Task(Batch(x[:, :shots], y[:, :shots]), Batch(x[:, shots:], y[:, shots:]))

    def draw(
        self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What sample() gathers: groups (slots,), numbers in the part, and rows of each (slots, shots + queries)."""
        keys = self.keys(iteration, slots)
        group = (derive(keys, 0) >> 1 & 0x7FFFFFFFFFFF) % len(self._counts)
        words = derive(derive(keys, 1)[:, None], self._numbers)
        words.masked_fill_(self._numbers >= self._counts[group][:, None], LEAST)
        return group, words.topk(self.shots + self.queries).indices


def _files(data: str | Path | Sequence[str | Path]) -> tuple[list[Path], bool]:
    """The files of a table, and whether they are several, or one of a folder."""
    if not isinstance(data, str | Path):
        return [Path(one).expanduser() for one in data], True
    place = Path(data).expanduser()
    if place.is_dir():
        found = sorted(path for path in place.iterdir() if path.suffix.lower() in table_file.SUFFIXES)
        stems = [path.stem for path in found]
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        if twice or not found:
            what = f"{place} has {shortened(twice)} with two endings" if twice else f"{place} has no tables"
            raise DataError(f"table: {what}; expected a {', '.join(table_file.SUFFIXES)} for each task.")
        return found, True
    if not place.is_file() or place.suffix.lower() not in table_file.SUFFIXES:
        what = "is no table" if place.is_file() else "is not there"
        raise DataError(
            f"table: {place} {what}; name a {', '.join(table_file.SUFFIXES)}, or a folder of them: data_dir=..."
        )
    return [place], False


def _by_group(values: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Group → its rows, sorted: however the table was written, the same rows give the same tasks."""
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name, []).append(number)
    return {
        name: own[np.lexsort(own.T[::-1])] for name, own in ((one, values[at]) for one, at in found.items())
    }
