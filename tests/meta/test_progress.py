"""How far a run is, on a terminal and elsewhere."""

from __future__ import annotations

import sys

from meta.progress import Progress


def test_progress_writes_a_plain_line_for_each_log_where_there_is_no_terminal(capsys):
    with Progress(10) as progress:
        progress.tick()
        progress.log(5, {"train/loss": 0.5, "train/accuracy": 0.25, "val/accuracy": 0.125})
    line = capsys.readouterr().err
    assert line.startswith("meta-training 5/10: loss 0.500, accuracy 25.0%, val 12.5%, 00:0")
    assert line.endswith("left\n")


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(10, done=4) as progress:
        progress.log(5, {"train/loss": 0.5, "train/accuracy": 0.25})
        progress.tick()
    bar = capsys.readouterr().err
    assert "5/10" in bar
    assert "accuracy=25.0%" in bar


def test_lines_are_written_among_the_others(capsys):
    with Progress(10) as progress:
        progress.write("one\ntwo")
    assert capsys.readouterr().err == "one\ntwo\n"


def test_lines_are_written_above_the_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(10) as progress:
        progress.write("one")
    written = capsys.readouterr().err
    assert "one\n" in written
    assert written.index("one\n") < written.rindex("0/10")
