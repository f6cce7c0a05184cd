"""meta.metrics and meta.results: what is in the files of runs, all of it, once, with its own types."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import yaml

import meta
from meta.metrics_file import MetricsError, read_metrics
from meta.report import ReportError
from tests.meta.report.folders import write_run, write_sweep
from tests.meta.runs import train
from tests.meta.test_run import tiny

pandas = pytest.importorskip("pandas", reason="pandas is not installed; pip install 'neo-meta[pandas]'")

LOGGED = ["seed", "step", "seconds", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/ci95"]


def typed(folder: Path, *overrides: str) -> None:
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Three arms as `-m algorithm=maml,fomaml algorithm.inner_lr=0.1,1 ... task.ways=5` leaves them, in two folders."""
    for name, choice, rate, adapt in (
        ("a/2", "maml", 0.1, "head.*"),
        ("a/10", "fomaml", 1, ["head.*", "norm"]),
        ("b/0", "maml", 0.4, None),
    ):
        algorithm = {"inner_lr": rate, "first_order": choice == "fomaml"}
        algorithm |= {} if adapt is None else {"adapt": adapt}
        folder = write_run(tmp_path / name, algorithm=algorithm, seed=3)
        extra = [] if adapt is None else ["algorithm.adapt=..."]
        typed(folder, f"algorithm={choice}", f"algorithm.inner_lr={rate}", "task.ways=5", "seed=3", *extra)
    return tmp_path


def test_row_is_a_run_and_a_step_with_the_numbers_of_its_line(sweep):
    table = meta.metrics(sweep)
    assert list(table.columns) == ["run", "algorithm", "algorithm.inner_lr", "algorithm.adapt", *LOGGED]
    assert list(dict.fromkeys(table.run)) == ["a/2", "a/10", "b/0"]
    for name in ("a/2", "a/10", "b/0"):
        rows = table[table.run == name].to_dict("records")
        lines = read_metrics(sweep / name / "metrics.jsonl")
        assert len(rows) == len(lines) == 6
        for row, line in zip(rows, lines, strict=True):
            assert {key: row[key] for key in line} == line
            assert all(math.isnan(row[key]) for key in LOGGED if key not in {*line, "seed"})


def test_settings_that_were_swept_have_the_types_of_their_values(sweep):
    for table in (
        meta.metrics(sweep).groupby("run", sort=False).first(),
        meta.results(sweep).set_index("run"),
    ):
        assert list(table["algorithm"]) == ["maml", "fomaml", "maml"]
        assert list(table["algorithm.inner_lr"]) == [0.1, 1, 0.4]
        assert table["algorithm.inner_lr"].dtype == float
        assert list(table["algorithm.adapt"])[:2] == ["head.*", ("head.*", "norm")]
        assert pandas.isna(table["algorithm.adapt"]["b/0"])
        assert list(table["seed"]) == [3, 3, 3]
        assert "task.ways" not in table  # the same for all
    means = meta.results(sweep).groupby("algorithm.adapt")["test/accuracy"].mean()
    assert len(means) == 2


def test_dtypes_are_numbers_where_all_are(tmp_path):
    table = meta.metrics(write_sweep(tmp_path / "s"))
    assert (table["step"].dtype, table["seconds"].dtype, table["train/loss"].dtype) == (int, float, float)
    assert (table["seed"].dtype, table["algorithm.inner_lr"].dtype) == (int, float)


def test_single_run_is_a_table_too(tmp_path):
    table = meta.metrics(str(write_run(tmp_path / "run")))
    assert list(table.columns) == ["run", *LOGGED]
    assert set(table.run) == {"run"}
    assert len(meta.results(tmp_path / "run")) == 1


def test_run_that_was_begun_in_python_is_found_with_what_differs(tmp_path):
    for number, rate in enumerate((0.1, 0.4)):
        train(tiny(f"algorithm.inner_lr={rate}"), tmp_path / str(number))
    table = meta.metrics(tmp_path)
    assert list(table["algorithm.inner_lr"]) == [0.1] * 4 + [0.4] * 4
    assert list(table["step"]) == [1, 2, 3, 4] * 2
    assert len(meta.metrics(tmp_path / "1")) == 4


def test_last_line_that_is_cut_short_is_left_out_and_another_is_named(tmp_path):
    path = write_run(tmp_path / "run") / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 70, "trai')
    assert list(meta.metrics(tmp_path / "run")["step"]) == [10, 20, 30, 40, 50, 60]
    path.write_text('{"step": 5, "tra\n' + whole)
    with pytest.raises(MetricsError, match=r"metrics\.jsonl: line 1 is damaged"):
        meta.metrics(tmp_path / "run")


def test_number_that_is_not_finite_is_nan(tmp_path):
    path = write_run(tmp_path / "run", val=None) / "metrics.jsonl"
    path.write_text('{"step": 1, "seconds": 1.0, "train/loss": null}\n')
    table = meta.metrics(tmp_path / "run")
    assert table["train/loss"].dtype == float
    assert math.isnan(table["train/loss"][0])


def test_results_have_a_row_for_every_run_whatever_became_of_it(tmp_path):
    table = meta.results(write_sweep(tmp_path / "s")).set_index("run")
    assert list(table.index) == [str(number) for number in range(8)]
    assert list(table["status"]) == ["finished"] * 6 + ["failed", "unfinished"]
    assert table["test/accuracy"]["2"] == pytest.approx(0.71)
    assert table["val/accuracy"]["2"] == pytest.approx(0.72)
    assert table["val/ci95"]["2"] == 0.02
    assert (table["iterations"]["2"], table["seconds"]["2"], table["test/tasks"]["2"]) == (60, 75.0, 40)
    assert math.isnan(table["test/accuracy"]["6"])
    assert table["iterations"]["7"] == 30
    assert "it broke" in table["reason"]["6"]
    assert table.columns[-1] == "reason"


def test_run_whose_files_disagree_is_said_and_never_counted(tmp_path):
    for name in ("0", "1"):
        train(tiny(f"seed={name}"), tmp_path / name)
    path = tmp_path / "1" / "result.json"
    path.write_text((tmp_path / "0" / "result.json").read_text())
    with pytest.warns(UserWarning, match=r"leaves 1 out: its files are not all of one run: .*seed is 0 in"):
        table = meta.metrics(tmp_path)
    assert set(table.run) == {"0"}
    row = meta.results(tmp_path).set_index("run").loc["1"]
    assert row["status"] == "inconsistent"
    assert math.isnan(row["test/accuracy"])
    assert "not all of one run" in row["reason"]
    with pytest.raises(ReportError, match="not all of one run"):
        meta.metrics(tmp_path / "1")


def test_run_that_has_logged_nothing_yet_leaves_a_table_without_rows(tmp_path):
    folder = write_run(tmp_path / "run", test=None)
    (folder / "metrics.jsonl").unlink()
    assert list(meta.metrics(folder).columns) == ["run", "seed", "step", "seconds"]
    assert len(meta.metrics(folder)) == 0
    assert list(meta.results(folder)["status"]) == ["unfinished"]


def test_folder_without_runs_and_a_missing_pandas_are_named(tmp_path, monkeypatch):
    with pytest.raises(ReportError, match="holds no runs"):
        meta.metrics(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    for function in (meta.metrics, meta.results):
        with pytest.raises(ImportError, match=r"pandas is not installed; pip install 'neo-meta\[pandas\]'"):
            function(tmp_path)
