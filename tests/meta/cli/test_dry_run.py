"""scripts/train.py --dry-run: says what a run would be, takes its first step, and writes nothing."""

from __future__ import annotations

import re

import pytest

from meta.cli import dry_run
from meta.experiment import Experiment
from tests.meta.cli.test_commands import TINY, call
from tests.meta.test_run import tiny


@pytest.fixture
def unmeasured(monkeypatch):
    def plan(config, own_only):
        raise ValueError("this system does not tell")

    monkeypatch.setattr(dry_run, "plan", plan)


def test_says_all_of_a_run_and_takes_the_step_that_the_run_takes(tmp_path, unmeasured):
    done = call(
        tmp_path, "train", *TINY, "--dry-run", "logger=csv", "hydra.run.dir=here", "precision=float64"
    )
    assert done.code == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    for said in (
        "data    glyphs",
        "3-way 1-shot, queries 2",
        "meta.MAML",
        "3 iterations of 2 tasks",
        "folder  here",
        "logged by meta.loggers.CSV",
        "head.weight   float64 (3, 4)",
        "cost    unknown: this system does not tell",
    ):
        assert said in done.stdout, said
    experiment = Experiment(tiny("precision=float64"))
    _, found = next(experiment.trainer.steps(experiment.sampler("train"), experiment.start()))
    assert "logged by" not in call(tmp_path, "train", *TINY, "--dry-run").stdout
    assert f"step 1  loss {float(found.loss.mean()):.4g}, accuracy" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "seed=0,1"], "error: --dry-run looks at one run in one process; leave -m and torchrun out."),
        (["resume=somewhere"], "error: --dry-run is of a run that is to begin; leave resume out."),
        (["model.hiden=4"], "error: unknown key 'model.hiden'"),
        (["model.size=200", "model.channels=3"], "error: "),
    ],
)
def test_what_a_run_would_refuse_is_refused_in_a_sentence(tmp_path, arguments, said, unmeasured):
    done = call(tmp_path, "train", *TINY, "--dry-run", *arguments)
    assert done.code == 1
    assert done.stderr.startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_refused(tmp_path, unmeasured):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    done = call(tmp_path, "train", *TINY, "--dry-run", "hydra.run.dir=run")
    assert done.stderr.startswith("error: run holds a run already")


@pytest.mark.slow
def test_tells_what_a_step_costs(tmp_path):
    done = call(tmp_path, "train", *TINY, "--dry-run")
    found = re.search(r"cost    \S+ s a step and \S+ for 3 steps, .* peak memory (\d+) MB", done.stdout)
    assert found
    assert 50 < int(found[1]) < 5000
    assert list(tmp_path.iterdir()) == []
