"""The commands as a user runs them: from any folder, with exit codes and one sentence for an error."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from meta.metrics_file import read_metrics

ROOT = Path(__file__).parents[3]
OF_A_CHECKOUT = ("bench", "mnist")  # commands that are not installed
TINY = [
    "task.dataset.alphabets=4",
    "task.dataset.characters=6",
    "task.ways=3",
    "task.queries=2",
    "model.hidden=4",
    "trainer.meta_batch=2",
    "trainer.iterations=3",
    "trainer.log_every=1",
    "trainer.val_tasks=2",
    "evaluation.tasks=4",
    "device=cpu",
]


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


def call(cwd: Path, name: str, *arguments: str) -> Done:
    """A command in this process, which spares the seconds that importing torch takes, and leaves no trace in it."""
    out, err = io.StringIO(), io.StringIO()
    handlers, level = logging.root.handlers[:], logging.root.level
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [f"{name}.py", *arguments])
        try:
            importlib.import_module(f"{'benchmarks' if name in OF_A_CHECKOUT else 'meta.cli'}.{name}").main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        finally:
            for handler in logging.root.handlers:
                if handler not in handlers:
                    handler.close()
            logging.root.handlers[:], logging.root.level = handlers, level
    return Done(code, out.getvalue(), err.getvalue())


def start(cwd: Path, name: str, *arguments: str) -> subprocess.Popen[str]:
    """A command as a user runs it, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("here") / "a run, with=odd (characters)"
    process = start(folder.parent, "train", *TINY, f"hydra.run.dir='{folder}'")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "test accuracy" in stdout
    assert str(folder / "plots" / "tasks.png") in stdout
    assert len([line for line in stderr.splitlines() if line.startswith("meta-training")]) == 3
    return folder


def test_train_leaves_the_run_folder_of_the_design(finished):
    assert (finished / ".hydra" / "config.yaml").exists()
    assert (
        "ways: 3" in (finished / ".hydra" / "resolved.yaml").read_text().partition("task:")[0]
    )  # the model's
    assert [line["step"] for line in read_metrics(finished / "metrics.jsonl")] == [1, 2, 3]
    assert {path.name for path in (finished / "plots").iterdir()} == {
        f"{name}.{ending}" for name in ("learning_curve", "tasks") for ending in ("png", "pdf", "svg")
    }
    assert json.loads((finished / "result.json").read_text())["test/tasks"] == 4
    assert {path.name for path in finished.parent.iterdir()} == {finished.name}


def test_evaluate_prints_and_writes_the_accuracy_of_a_run(finished, tmp_path):
    done = call(tmp_path, "evaluate", f"run_dir='{finished}'", "tasks=4")
    assert done.code == 0, done.stderr
    written = json.loads((finished / "evaluation.json").read_text())
    assert written["test/accuracy"] == json.loads((finished / "result.json").read_text())["test/accuracy"]
    assert f"test accuracy {100 * written['test/accuracy']:.2f}% ±" in done.stdout
    assert not list(tmp_path.iterdir())


def test_train_continues_a_finished_run_with_more_iterations(finished, tmp_path):
    done = call(tmp_path, "train", f"resume='{finished}'", "trainer.iterations=4")
    assert done.code == 0, done.stderr
    assert [line["step"] for line in read_metrics(finished / "metrics.jsonl")] == [1, 2, 3, 4]
    assert json.loads((finished / "result.json").read_text())["iterations"] == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        (
            "train",
            ["task.wayss=3"],
            "error: unknown key 'task.wayss'; did you mean task.ways?",
        ),
        (
            "train",
            ["task.ways=1000"],
            "error: EpisodeSampler: ways=1000 is more than the 48 classes of glyphs train",
        ),
        (
            "train",
            ["algorithm.inner_lr=-1"],
            "error: MAML: inner_lr must be a finite number of 0 or more, got -1",
        ),
        (
            "train",
            [*TINY, "algorithm.inner_lr=1e38"],
            "error: step 1: the query loss of task 0 (iteration 0, slot 0) is",
        ),
        ("train", ["device=cuda:99"], "error: device=cuda:99 was asked for, but torch"),
        ("train", ["notanoverride"], "error: invalid override 'notanoverride'; write key=value"),
        ("train", ["resume=nowhere"], "error: resume=nowhere is not the folder of a run"),
        ("evaluate", [], "error: run_dir is missing"),
        ("evaluate", ["run_dir=nowhere"], "error: nowhere/checkpoints holds no checkpoint"),
        ("mnist", ["epochs=0"], "error: epochs=0 is too small"),
    ],
)
def test_bad_input_exits_with_one_sentence(tmp_path, name, arguments, sentence):
    small = (
        ["task.dataset.alphabets=3", "task.dataset.characters=12"] if "task.ways=1000" in arguments else []
    )
    done = call(tmp_path, name, *arguments, *small)
    assert done.code == 1
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_where_an_error_came_from(tmp_path):
    done = call(tmp_path, "train", "task.ways=1000", "debug=true")
    assert done.code == 1
    assert "Traceback" in done.stderr
    assert "\nerror: EpisodeSampler: ways=1000" in done.stderr


def test_second_run_in_a_folder_is_refused_before_anything_is_written(finished, tmp_path):
    before = (finished / ".hydra" / "config.yaml").read_text()
    done = call(tmp_path, "train", "seed=9", f"hydra.run.dir='{finished}'")
    assert done.code == 1
    assert "holds a run already" in done.stderr
    assert (finished / ".hydra" / "config.yaml").read_text() == before


def test_sweep_runs_the_other_arms_when_one_fails(tmp_path):
    done = call(tmp_path, "train", "-m", *TINY, "task.ways=1,3", "hydra.sweep.dir=sweep")
    assert done.code == 1
    assert done.stderr.splitlines()[-1].startswith("error: EpisodeSampler: ways=1 is too small")
    assert not (tmp_path / "sweep" / "0" / "result.json").exists()
    assert json.loads((tmp_path / "sweep" / "1" / "result.json").read_text())["protocol"]["ways"] == 3


def test_interrupt_keeps_what_is_written_and_says_how_to_go_on(tmp_path):
    process = start(tmp_path, "train", *TINY, "trainer.iterations=1000000", "hydra.run.dir=run")
    metrics, patience = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < patience:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert f"continue with: resume={tmp_path / 'run'}" in stderr
    assert "Traceback" not in stderr
    assert read_metrics(metrics)[0]["step"] == 1
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.safetensors"))


def test_wandb_run_is_kept_offline_where_there_is_no_key(tmp_path, monkeypatch):
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("wandb is not installed; pip install 'neo-meta[wandb]'")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    process = start(tmp_path, "train", *TINY, "logger=wandb", "hydra.run.dir=run")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "wandb could not" not in stderr
    (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert next(run.glob("*.wandb")).stat().st_size > 0
    pictures = sorted(path.name.rpartition("_")[0] for path in (run / "files" / "media" / "images").iterdir())
    assert pictures == ["learning_curve_3", "tasks_3"]
