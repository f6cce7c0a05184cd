"""metrics.jsonl: whole lines, once each."""

from __future__ import annotations

import pytest

from meta.metrics import Metrics, plain, read_metrics


def test_metrics_are_on_the_disk_as_soon_as_written(tmp_path):
    metrics = Metrics(tmp_path / "m")
    metrics.write({"step": 1, "train/loss": 0.1 + 0.2})
    assert read_metrics(tmp_path / "m") == [{"step": 1, "train/loss": 0.1 + 0.2}]
    metrics.close()


def test_metrics_of_another_run_are_never_overwritten(tmp_path):
    (tmp_path / "m").write_text("kept")
    with pytest.raises(FileExistsError):
        Metrics(tmp_path / "m")
    assert (tmp_path / "m").read_text() == "kept"


def test_metrics_continue_after_a_step_without_doubles_or_cut_lines(tmp_path):
    (tmp_path / "m").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    metrics = Metrics(tmp_path / "m", after=2)
    metrics.write({"step": 3})
    metrics.close()
    assert [line["step"] for line in read_metrics(tmp_path / "m")] == [1, 2, 3]


def test_plain_replaces_what_json_cannot_say():
    assert plain({"a": float("nan"), "b": [1.0, float("inf")], 3: "x"}) == {
        "a": None,
        "b": [1.0, None],
        "3": "x",
    }
