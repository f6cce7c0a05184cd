"""Watching a run must neither stop it nor ask anything of it."""

from __future__ import annotations

import sys

import pytest

from meta.loggers import Progress, Wandb


def test_wandb_warns_once_and_lets_the_run_go_on_when_it_is_not_installed(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)  # makes the import fail
    logger = Wandb()
    logger.start(tmp_path, {}, resumed=False)
    logger.log(1, {"train/loss": 1.0})
    logger.finish({}, {})
    assert [record.message for record in caplog.records] == [
        "wandb could not start (wandb is not installed); the run goes on without it."
    ]


def test_wandb_gives_up_after_the_first_failure(tmp_path, monkeypatch, caplog):
    class Broken:
        calls = 0

        def log(self, metrics, step):
            Broken.calls += 1
            raise ConnectionError("no route\nto host")

    logger = Wandb()
    logger._run = Broken()
    logger.log(1, {})
    logger.log(2, {})
    assert Broken.calls == 1
    assert [record.message for record in caplog.records] == [
        "wandb could not log (ConnectionError: no route to host); the run goes on without it."
    ]


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


@pytest.fixture(autouse=True)
def _no_key(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
