"""An algorithm in a folder of a user's own: the one of docs/writing-an-algorithm.md, with every part of the seam.

It depends on iteration and seed, carries a state, reports a metric, has no model, and drops out features.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import meta
from meta.checkpoint import Checkpoints, read_header
from meta.metrics_file import read_metrics
from tests.meta.cli import victim

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "writing-an-algorithm.md"
PATIENCE_S = 150.0
SETTINGS = [
    "algorithm=centred_prototypes",
    "algorithm.noise_steps=4",
    "task.dataset.alphabets=4",
    "task.dataset.characters=6",
    "task.ways=4",
    "task.queries=3",
    "trainer.iterations=8",
    "trainer.meta_batch=5",
    "trainer.log_every=1",
    "trainer.checkpoint_every=2",
    "trainer.val_every=4",
    "trainer.val_tasks=3",
    "evaluation.tasks=6",
    "optimizer.lr=0.01",
    "device=cpu",
    "workers=1",
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """Their folder: the page's file, and conf beside it."""
    folder = tmp_path_factory.mktemp("theirs")
    blocks = dict(
        re.findall(r"^```\w+\n# ([\w./]+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    )
    assert blocks.keys() == {"centred_prototypes.py", "conf/algorithm/centred_prototypes.yaml"}
    for name, text in blocks.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def command(theirs: Path, *arguments: str) -> list[str]:
    return ["--config-dir", str(theirs / "conf"), *arguments]


def trained(cwd: Path, *arguments: str, kill_at: int | None = None) -> int | None:
    """scripts/train.py in a process of its own: its exit code."""
    process = victim.start(cwd, *arguments, kill_at=kill_at)
    process.join(PATIENCE_S)
    return process.exitcode


def called(cwd: Path, *words: str) -> str:
    """A Python command as a user types it: what it prints."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(theirs, tmp_path_factory) -> Path:
    """Trained in one go."""
    cwd = tmp_path_factory.mktemp("whole")
    assert trained(cwd, *command(theirs, *SETTINGS, "hydra.run.dir=run")) == 0, (cwd / "output").read_text()
    return cwd / "run"


def assert_same(run: Path, reference: Path) -> None:
    """Two runs to the last bit, but for the time that they took and how many ranks they had."""

    def said(folder: Path) -> tuple[list, dict]:
        lines = [{**line, "seconds": None} for line in read_metrics(folder / "metrics.jsonl")]
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return lines, {**result, "seconds": None, "ranks": None}

    assert said(run) == said(reference)
    names = sorted(path.name for path in (reference / "checkpoints").iterdir())
    assert names == sorted(path.name for path in (run / "checkpoints").iterdir())
    for name in ("test.safetensors", *(f"checkpoints/{name}" for name in names)):
        ours, theirs = load_file(run / name), load_file(reference / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_trains_with_its_metric_its_state_and_no_inner_steps(run, theirs, monkeypatch):
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [*range(1, 9)]
    assert all(line["train/shift"] > 0 for line in lines)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["protocol"]["algorithm"] == "centred_prototypes.CentredPrototypes"
    assert result["protocol"]["test_inner_steps"] is None
    assert result["test/accuracy"] > result["test/chance"]
    assert (run / "plots" / "tasks.png").is_file()

    monkeypatch.syspath_prepend(theirs)
    importlib.invalidate_caches()
    loaded = meta.load(run, which="last")
    assert loaded.state["examples"] == 8 * 4  # the same for all tasks of a step
    assert bool((loaded.state["mean"] != 0).any())
    assert loaded.params.keys() == {"weight"}


@pytest.mark.parametrize("event", [68, 75])
def test_killed_and_resumed_it_is_the_same_run(run, theirs, tmp_path, event):
    cwd = tmp_path / "here"
    assert trained(cwd, *command(theirs, *SETTINGS, "hydra.run.dir=run"), kill_at=event) == -signal.SIGKILL
    reached = read_header(Checkpoints(cwd / "run" / "checkpoints").last())["step"]
    assert 0 < reached < 8
    assert trained(cwd, *command(theirs, "resume=run")) == 0, (cwd / "output").read_text()
    assert_same(cwd / "run", run)


@pytest.mark.slow
def test_two_ranks_have_the_bits_of_one(run, theirs, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    script = str(ROOT / "scripts" / "train.py")
    called(tmp_path, *launcher, script, *command(theirs, *SETTINGS, "hydra.run.dir=run"))
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["ranks"] == 2
    assert_same(tmp_path / "run", run)


@pytest.mark.slow
def test_evaluates_on_other_tasks(run, theirs, tmp_path):
    script = str(ROOT / "scripts" / "evaluate.py")
    printed = called(
        tmp_path, script, *command(theirs, f"run_dir={run}", "tasks=12", "ways=6", "shots=2", "name=larger")
    )
    result = json.loads((run / "larger.json").read_text(encoding="utf-8"))
    assert (result["test/tasks"], result["protocol"]["ways"], len(result["test/steps"])) == (12, 6, 1)
    assert result["test/accuracy"] > 1 / 6
    assert f"{result['test/accuracy']:.2%}" in printed


@pytest.mark.slow
def test_sweeps_and_reports(theirs, tmp_path):
    folder = tmp_path / "sweep"
    arms = ["-m", *SETTINGS, "algorithm.momentum=0.01,0.5", f"hydra.sweep.dir={folder}"]
    assert trained(tmp_path, *command(theirs, *arms)) == 0, (tmp_path / "output").read_text()
    results = [json.loads((folder / arm / "result.json").read_text("utf-8")) for arm in ("0", "1")]
    assert [result["protocol"]["momentum"] for result in results] == [0.01, 0.5]
    called(tmp_path, str(ROOT / "scripts" / "report.py"), str(folder))
    (page,) = folder.glob("*.html")
    assert "algorithm.momentum" in page.read_text(encoding="utf-8")
