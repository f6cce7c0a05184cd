"""Meta-training as torchrun starts it: the run of one process, or an end with an error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meta.checkpoint import Checkpoints, read_header
from meta.metrics_file import read_metrics
from tests.meta.cli.test_commands import ROOT, TINY, call
from tests.meta.test_run import assert_same_run

DEADLINE_S = 150  # of a whole command; most of what it takes is importing torch, once a process


def torchrun(cwd: Path, *arguments: str, ranks: int = 2) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            *("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
            *(str(ROOT / "scripts" / "train.py"), *arguments),
        ],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_ranks_make_the_run_of_one(tmp_path):
    shared = (*TINY, "trainer.meta_batch=7")
    process = torchrun(tmp_path, *shared)
    done = call(tmp_path, "train", *shared, "hydra.run.dir=alone")
    assert done.code == 0, done.stderr
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, stderr
    # One folder, named after the time on one rank; one voice.
    (folder,) = (path.parent for path in (tmp_path / "outputs").glob("*/*/metrics.jsonl"))
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "outputs"}
    assert (folder / ".hydra" / "config.yaml").exists()
    assert len(re.findall("test accuracy", stdout)) == 1
    assert len(re.findall(r"meta-training \d", stderr)) == 3
    assert_same_run(tmp_path / "alone", folder)
    said = re.compile(r"test accuracy .*, 3 iterations")
    assert said.findall(stdout) == said.findall(done.stdout)


@pytest.mark.slow
def test_ranks_resume_where_one_process_stopped(tmp_path):
    settings = (*TINY, "trainer.meta_batch=7", "trainer.val_every=0")
    for name, iterations in (("whole", 5), ("run", 3)):
        done = call(tmp_path, "train", *settings, f"trainer.iterations={iterations}", f"hydra.run.dir={name}")
        assert done.code == 0, done.stderr
    process = torchrun(tmp_path, "resume=run", "trainer.iterations=5")
    _, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, stderr
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "run"}


@pytest.mark.slow
@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_command_ends_with_an_error_when_a_rank_is_gone(tmp_path, what):
    endless = ("trainer.iterations=1000000", "trainer.checkpoint_every=2", "rank_timeout_s=5")
    process = torchrun(tmp_path, *TINY, *endless, "hydra.run.dir=run")
    checkpoints, patience = tmp_path / "run" / "checkpoints", time.monotonic() + DEADLINE_S
    while not (checkpoints / "step-00000004.safetensors").exists() and time.monotonic() < patience:
        time.sleep(0.05)
    os.kill(rank_of(process, 1), what)
    # torchrun gives a stopped rank 30 seconds to heed SIGTERM before it kills it.
    _, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode != 0
    if what == signal.SIGSTOP:
        assert "error: rank 0 of 2 waited for another that failed or stopped" in stderr
    step = read_header(Checkpoints(checkpoints).last())["step"]
    assert step >= 4
    done = call(tmp_path, "train", "resume=run", f"trainer.iterations={step + 1}")
    assert done.code == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_torchrun_ends_the_run_at_a_step_that_is_kept(tmp_path, number):
    process = torchrun(
        tmp_path, *TINY, "trainer.iterations=1000000", "trainer.log_every=5", "hydra.run.dir=run"
    )
    metrics, patience = tmp_path / "run" / "metrics.jsonl", time.monotonic() + DEADLINE_S
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < patience:
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode != 0
    assert len(re.findall("stopped; continue with: resume=", stderr)) == 1
    assert len(re.findall(r"^interrupted\.$", stderr, re.MULTILINE)) == 2
    assert "error" not in [line.partition(" ")[0].rstrip(":") for line in stderr.splitlines()]
    step = read_header(Checkpoints(tmp_path / "run" / "checkpoints").last())["step"]
    assert step >= max(line["step"] for line in read_metrics(metrics)) > 0
    done = call(tmp_path, "train", "resume=run", f"trainer.iterations={step + 1}")
    assert done.code == 0, done.stderr


def rank_of(process: subprocess.Popen[str], rank: int) -> int:
    """The process id of a rank: the child of torchrun that was told that number."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"torchrun has no rank {rank}")


@pytest.fixture
def in_a_rank(monkeypatch):
    """This process, as if torchrun had started it as one of two."""
    for name, value in {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        (
            "train",
            ["-m", "seed=0,1"],
            "-m starts one run after another, torchrun shares out one run; use either.",
        ),
        ("train", ["seeed=1"], "unknown key 'seeed'; did you mean seed?"),
        (
            "train",
            ["rank_timeout_s=0"],
            "rank_timeout_s=0 is invalid; choose a number of seconds greater than 0.",
        ),
        (
            "evaluate",
            ["run_dir=run"],
            "evaluate runs in one process, and torchrun has started 2; start it without",
        ),
    ],
)
def test_what_ranks_cannot_do_is_refused_by_name(tmp_path, in_a_rank, name, arguments, sentence):
    done = call(tmp_path, name, *arguments)
    assert done.code == 1
    assert done.stderr.startswith(f"error in rank 1: {sentence}")
    assert not list(tmp_path.iterdir())
