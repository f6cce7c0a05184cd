"""metrics.jsonl: whole lines, once each."""

from __future__ import annotations

from pathlib import Path

import pytest

from meta.metrics_file import Metrics, MetricsError, plain, read_metrics


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


def test_metrics_rewrite_the_lines_before_a_step_byte_for_byte(tmp_path):
    lines = Metrics(tmp_path / "m")
    for step in range(1, 6):
        lines.write({"step": step, "train/loss": 1 / (3 * step), "note": "ä", "none": float("nan")})
    lines.close()
    before = (tmp_path / "m").read_bytes()
    Metrics(tmp_path / "m", after=5).close()
    assert (tmp_path / "m").read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here, a file on a disk that is full")
def test_metrics_name_their_file_when_the_disk_is_full(tmp_path):
    metrics = Metrics(tmp_path / "m")
    metrics._file.close()
    metrics._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 (metrics closes it)
    with pytest.raises(OSError, match="No space left on device") as caught:
        metrics.write({"step": 1})
    assert caught.value.filename == str(tmp_path / "m")
    metrics.close()


def test_metrics_leave_nothing_of_a_line_that_did_not_fit(tmp_path):
    class Filling:
        """A file that takes half of what it is given, and then no more."""

        def __init__(self, file):
            self.file, self.full = file, False

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            if self.full:
                raise OSError(28, "No space left on device")
            self.full = True
            return self.file.write(content[: len(content) // 2])

    metrics = Metrics(tmp_path / "m")
    metrics.write({"step": 1})
    metrics._file = Filling(metrics._file)
    with pytest.raises(OSError, match="No space left"):
        metrics.write({"step": 2})
    metrics.close()
    assert (tmp_path / "m").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("line", ["\0\0\0", '{"step"', "[1]", '{"loss": 1}', "7"])
def test_damaged_line_is_named(tmp_path, line):
    (tmp_path / "m").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(
        MetricsError, match=r"m: line 2 is damaged, expected JSON with a step, got .*; delete that"
    ):
        read_metrics(tmp_path / "m")


def test_plain_replaces_what_json_cannot_say():
    assert plain({"a": float("nan"), "b": [1.0, float("inf")], 3: "x"}) == {
        "a": None,
        "b": [1.0, None],
        "3": "x",
    }
