"""kill -9 at any moment loses no more than the steps since the last checkpoint, and changes nothing in the end."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from meta.checkpoint import Checkpoints
from meta.metrics_file import read_metrics
from meta.resume import holds_run
from tests.meta.cli import victim

TINY = [
    "task.dataset.alphabets=3",
    "task.dataset.characters=3",
    "task.dataset.images_per_class=4",
    "task.ways=2",
    "task.queries=2",
    "model.hidden=2",
    "trainer.meta_batch=2",
    "trainer.log_every=1",
    "trainer.keep=1",
    "trainer.val_tasks=2",
    "evaluation.tasks=4",
    "device=cpu",
    "workers=1",
    "hydra.run.dir=run",
]
SHORT = [*TINY, "trainer.iterations=4", "trainer.checkpoint_every=2", "trainer.val_every=3"]
LONG = [*TINY, "trainer.iterations=500", "trainer.checkpoint_every=7", "trainer.val_every=20"]
KILLS = 20
PATIENCE_S = 100.0


def finish(cwd: Path, *arguments: str) -> None:
    process = victim.start(cwd, *arguments)
    process.join(PATIENCE_S)
    assert process.exitcode == 0, (cwd / "output").read_text()


def uninterrupted(cwd: Path, arguments: Sequence[str]) -> Path:
    finish(cwd, *arguments)
    return cwd / "run"


def go_on(cwd: Path, arguments: Sequence[str]) -> list[str]:
    """What somebody types next: resume, or the same command again where the run had not begun."""
    return ["resume=run"] if holds_run(cwd / "run") else list(arguments)


def timeless(value: dict) -> dict:
    return {key: entry for key, entry in value.items() if key != "seconds"}


def assert_same(run: Path, reference: Path) -> None:
    lines = [read_metrics(folder / "metrics.jsonl") for folder in (run, reference)]
    assert [timeless(line) for line in lines[0]] == [timeless(line) for line in lines[1]]
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, reference)]
    assert timeless(results[0]) == timeless(results[1])
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (run, reference)]
    assert files[0] == files[1]
    for path in (reference / "checkpoints").iterdir():
        ours, theirs = load_file(run / "checkpoints" / path.name), load_file(path)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), path.name


def assert_whole(run: Path, every: int, caplog: pytest.LogCaptureFixture) -> None:
    """No checkpoint is damaged, and the last one is at most `every` steps behind."""
    caplog.clear()
    checkpoints = Checkpoints(run / "checkpoints")
    last = checkpoints.last()
    assert last == checkpoints.paths()[-1]
    assert not caplog.records
    for path in (run / "checkpoints").glob("*.safetensors"):
        load_file(path)
    logged = (
        [line["step"] for line in read_metrics(run / "metrics.jsonl")]
        if (run / "metrics.jsonl").exists()
        else []
    )
    assert logged == list(range(1, len(logged) + 1))
    # The line of a step is written before its checkpoint.
    assert int(last.stem.partition("-")[2]) >= max(len(logged) - 1, 0) // every * every


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uninterrupted(tmp_path_factory.mktemp("short"), SHORT)


def survive(cwd: Path, event: int, reference: Path, caplog: pytest.LogCaptureFixture) -> bool:
    """Kill a run in front of one of the things it does with files, and let it end. False if it does not do so many."""
    process = victim.start(cwd, *SHORT, kill_at=event)
    process.join(PATIENCE_S)
    if process.exitcode == 0:
        return False
    assert process.exitcode == -signal.SIGKILL, (cwd / "output").read_text()
    if holds_run(cwd / "run"):
        assert_whole(cwd / "run", 2, caplog)
    finish(cwd, *go_on(cwd, SHORT))
    assert_same(cwd / "run", reference)
    return True


@pytest.mark.parametrize("event", [45, 57, 66])
def test_run_killed_at_a_file_goes_on_as_if_nothing_had_been(tmp_path, short, caplog, event):
    assert survive(tmp_path, event, short, caplog)


@pytest.mark.exhaustive
def test_run_killed_at_every_other_file_goes_on_as_if_nothing_had_been(tmp_path, short, caplog):
    event = 1
    while survive(tmp_path / str(event), event, short, caplog):
        event += 2
    assert event > 40


@pytest.mark.slow
def test_run_killed_twenty_times_equals_the_uninterrupted_one(tmp_path, caplog):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    reference = uninterrupted(tmp_path / "whole", LONG)
    cwd, run = tmp_path / "killed", tmp_path / "killed" / "run"
    moments = random.Random(5)
    for _ in range(KILLS):
        process = victim.start(cwd, *go_on(cwd, LONG))
        wanted = size(run / "metrics.jsonl") + moments.randrange(0, 3000)  # bytes; a line has some hundred
        patience = time.monotonic() + PATIENCE_S
        while size(run / "metrics.jsonl") < wanted and time.monotonic() < patience:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join(PATIENCE_S)
        assert process.exitcode == -signal.SIGKILL, (cwd / "output").read_text()
        if holds_run(run):
            assert_whole(run, 7, caplog)
    assert not (run / "result.json").exists()
    finish(cwd, *go_on(cwd, LONG))
    assert_same(run, reference)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
