"""metrics.csv, read back with csv and compared with metrics.jsonl; whole whenever a run ends."""

from __future__ import annotations

import csv
import errno
import math
from pathlib import Path

import pytest

from meta.experiment import Experiment
from meta.loggers import CSV, Loggers
from meta.metrics_file import read_metrics
from meta.resume import resumed_config
from tests.meta.runs import train
from tests.meta.test_run import tiny


def table(folder: Path) -> list[dict[str, float | None]]:
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file, strict=True, restkey="too many", restval="too few"))
    return [{key: float(cell) if cell else None for key, cell in row.items()} for row in read]


def expected(folder: Path) -> list[dict[str, float | None]]:
    lines = read_metrics(folder / "metrics.jsonl")
    columns = dict.fromkeys(key for line in lines for key in line)
    return [{key: line.get(key) for key in columns} for line in lines]


def started(folder: Path, text: str = "") -> CSV:
    (folder / "metrics.jsonl").write_text(text)
    logger = CSV()
    logger.start(folder, {}, resumed=bool(text))
    return logger


def test_table_is_that_of_metrics_jsonl_to_the_last_digit(tmp_path):
    train(tiny("logger=csv"), tmp_path)
    rows = table(tmp_path)
    assert rows == expected(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["val/accuracy"] is None for row in rows] == [True, False, True, False]


def test_resumed_run_has_each_step_once(tmp_path, monkeypatch):
    """Killed at step 3, after the checkpoint of step 2: step 3 is logged twice."""

    class Killing(CSV):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "logger", Loggers([Killing()]))
        with pytest.raises(KeyboardInterrupt):
            train(tiny("logger=csv"), tmp_path)
    assert [row["step"] for row in table(tmp_path)] == [1, 2, 3]
    assert table(tmp_path) == expected(tmp_path)
    train(resumed_config(tmp_path, {}), tmp_path, resume=True)
    assert [row["step"] for row in table(tmp_path)] == [1, 2, 3, 4]
    assert table(tmp_path) == expected(tmp_path)


def test_run_that_gets_the_logger_when_it_is_resumed_has_all_its_steps(tmp_path):
    train(tiny(), tmp_path)
    assert not (tmp_path / "metrics.csv").exists()
    train(
        resumed_config(tmp_path, {"logger": tiny("logger=csv").logger, "trainer.iterations": 6}),
        tmp_path,
        resume=True,
    )
    assert table(tmp_path) == expected(tmp_path)
    assert len(table(tmp_path)) == 6


def test_every_state_of_the_file_is_a_whole_table(tmp_path):
    logger = started(tmp_path)
    lines = [{"a": 1.0}, {"a": 2.0, "b": 0.1}, {"b": 0.2}, {"c": 1e-300}]
    for step, line in enumerate(lines, 1):
        logger.log(step, {"seconds": 0.5, **line})
        assert len(table(tmp_path)) == step
        assert len({tuple(row) for row in table(tmp_path)}) == 1
    columns = ("step", "seconds", "a", "b", "c")
    assert table(tmp_path) == [
        {key: {"step": step, "seconds": 0.5, **line}.get(key) for key in columns}
        for step, line in enumerate(lines, 1)
    ]


def test_nan_is_an_empty_cell_and_a_comma_stays_in_its_name(tmp_path):
    logger = started(tmp_path)
    logger.log(1, {"train/a,b": math.nan, "train/c": math.inf, "train/d": -0.0})
    assert table(tmp_path) == [
        {"step": 1, "seconds": None, "train/a,b": None, "train/c": None, "train/d": 0.0}
    ]


def test_row_that_a_full_disk_refuses_leaves_nothing(tmp_path, monkeypatch):
    logger = started(tmp_path)
    logger.log(1, {"a": 1.0})
    before = (tmp_path / "metrics.csv").read_bytes()

    class Full:
        """Takes three bytes more."""

        def __init__(self, path, mode, buffering):
            self.file = open(path, mode, buffering=buffering)  # noqa: SIM115
            self.room = 3

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def fileno(self):
            return self.file.fileno()

        def truncate(self, size):
            return self.file.truncate(size)

        def write(self, content):
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken, self.room = self.file.write(content[: self.room]), 0
            return taken

    monkeypatch.setattr("meta.loggers.csv.open", Full, raising=False)
    with pytest.raises(OSError, match=r"No space left.*metrics\.csv"):
        logger.log(2, {"a": 2.0})
    assert (tmp_path / "metrics.csv").read_bytes() == before
