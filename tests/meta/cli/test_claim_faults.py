"""A run that fails or is killed between any two writes, and who comes next: the folder is never two runs' at once."""

from __future__ import annotations

import builtins
import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from meta import record
from meta.checkpoint import Checkpoints, read_header
from meta.metrics_file import read_metrics
from meta.plots import canvas
from meta.report import read as read_report
from meta.resume import holds_run
from tests.meta.cli import victim
from tests.meta.cli.test_claim import tree
from tests.meta.cli.test_commands import call
from tests.meta.cli.test_kill import SHORT

PATIENCE_S = 60.0


class FullDisk:
    """While in use, the `at`-th (from 0) opening for writing, flush or rename in a folder fails, and all after it."""

    def __init__(self, folder: Path, at: int) -> None:
        self.folder, self.at, self.seen = str(folder), at, 0
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> FullDisk:
        self.patch.setattr(builtins, "open", self._failing(builtins.open, writing=True))
        self.patch.setattr(os, "replace", self._failing(os.replace))
        self.patch.setattr(os, "fsync", self._failing(os.fsync))
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    def _failing(self, original: Callable, writing: bool = False) -> Callable:
        def call(place, *arguments, **settings):
            mode = str(settings.get("mode", arguments[0] if arguments else "r"))
            ours = isinstance(place, int) or os.path.abspath(place).startswith(self.folder)
            if ours and (not writing or set(mode) & set("wax")):
                self.seen += 1
                if self.seen > self.at:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
            return original(place, *arguments, **settings)

        return call


def numbers(run: Path) -> list[dict]:
    lines = read_metrics(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict]]:
    """What is logged by runs of two seeds that nothing befell."""
    found = {}
    for seed in (0, 9):
        cwd = tmp_path_factory.mktemp(f"whole{seed}")
        assert call(cwd, "train", *SHORT, f"seed={seed}").code == 0
        found[seed] = numbers(cwd / "run")
    assert found[0] != found[9]
    return found


def assert_one_run(run: Path, seed: int) -> None:
    """All that says something of the run says the same."""
    (arm,) = read_report(run).arms
    assert (arm.status, arm.recorded) == ("finished", True), arm.reason
    assert arm.settings["seed"] == arm.result["seed"] == record.read(run)["seeds"]["seed"] == seed
    assert json.loads((run / "result.json").read_text())["record"] == record.read(run)
    assert {read_header(path)["seeds"]["seed"] for path in Checkpoints(run / "checkpoints").paths()} == {seed}
    assert not list(run.rglob("*.part"))
    assert not (run / "failure.json").exists()


def assert_next_is_refused_or_alone(cwd: Path, whole: dict[int, list[dict]]) -> None:
    """Somebody else's command in the folder of a run that has just ended, however, and then the run's owner again."""
    run, seed = cwd / "run", 9
    if holds_run(run):
        before = tree(cwd)
        done = call(cwd, "train", *SHORT, "seed=9")
        assert done.code == 1
        assert "holds a run already" in done.stderr
        assert tree(cwd) == before
        done, seed = call(cwd, "train", "resume=run"), 0
    else:
        done = call(cwd, "train", *SHORT, "seed=9")
    assert done.code == 0, done.stderr
    assert_one_run(run, seed)
    assert numbers(run) == whole[seed]


def fail(cwd: Path, at: int, whole: dict[int, list[dict]]) -> bool:
    """A run on a disk that is full from there on; False where it does not write so often."""
    cwd.mkdir(exist_ok=True)
    with FullDisk(cwd, at):
        done = call(cwd, "train", *SHORT)
    if done.code == 0:
        return False
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert_next_is_refused_or_alone(cwd, whole)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 3, 9, 14, 19, 26])
def test_run_that_fails_at_a_write_leaves_the_folder_to_one_run(tmp_path, whole, at):
    assert fail(tmp_path, at, whole)


@pytest.mark.exhaustive
def test_run_that_fails_at_any_write_leaves_the_folder_to_one_run(tmp_path, whole):
    at = 0
    while fail(tmp_path / str(at), at, whole):
        at += 1
    assert at > 50


@pytest.mark.exhaustive
def test_run_killed_at_any_file_leaves_the_folder_to_one_run(tmp_path, whole):
    at = 0
    while True:
        cwd = tmp_path / str(at)
        process = victim.start(cwd, *SHORT, kill_at=at)
        process.join(PATIENCE_S)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, (cwd / "output").read_text()
        assert_next_is_refused_or_alone(cwd, whole)
        at += 3
    assert at > 60


def test_resume_that_is_refused_at_any_write_of_it_leaves_the_folder_as_it_was(tmp_path):
    """Until the lock names its holder nothing is written; a disk that is full there changes nothing of the run."""
    assert call(tmp_path, "train", *SHORT).code == 0
    before = tree(tmp_path)
    with FullDisk(tmp_path, 0):
        done = call(tmp_path, "train", "resume=run", "trainer.iterations=5")
    assert done.code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_evaluation_that_fails_at_any_write_leaves_each_file_as_it_was_or_as_it_should_be(
    tmp_path, monkeypatch
):
    def heading(figure, file):  # in the place of the picture, which takes longest to draw
        file.write(figure.get_suptitle().encode())

    monkeypatch.setattr(canvas, "FORMATS", dict.fromkeys(canvas.FORMATS, heading))

    def evaluate(tasks: int):
        return call(tmp_path, "evaluate", "run_dir=run", f"tasks={tasks}")

    assert call(tmp_path, "train", *SHORT).code == 0
    assert evaluate(4).code == 0
    wanted = tree(tmp_path / "run")
    assert evaluate(3).code == 0
    before, at = tree(tmp_path / "run"), 0
    shutil.copytree(tmp_path / "run", tmp_path / "kept")
    while True:
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(tmp_path / "kept", tmp_path / "run")
        with FullDisk(tmp_path, at):
            done = evaluate(4)
        if done.code == 0:
            break
        assert json.loads(done.stdout)["test/tasks"] == 4
        after = tree(tmp_path / "run")
        assert all(after[name] in (before[name], wanted[name]) for name in before), at
        assert after.keys() == before.keys()
        at += 1
    assert at > 8
