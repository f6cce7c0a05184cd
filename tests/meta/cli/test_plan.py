"""scripts/plan.py and trainer.memory, as a user meets them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import meta
from meta.checkpoint import Checkpoints, read_header
from meta.cli import sweeps
from meta.cli.configs import composed
from meta.cli.plan import text
from meta.planning import Plan, Row, plan, settled, settled_as_before
from tests.meta.cli.test_commands import TINY, call

# Ten inner steps of fifty images each: what reverse mode keeps of them is half of what the process takes.
DEEP = [
    "model=conv4_maxpool",
    "task.shots=10",
    "task.queries=5",
    "task.dataset.alphabets=5",
    "task.dataset.characters=6",
    "algorithm.inner_steps=10",
    "algorithm.inner_lr=0.01",
    "trainer.meta_batch=2",
    "trainer.iterations=2",
    "trainer.val_every=0",
    "evaluation.tasks=4",
    "device=cpu",
    "workers=2",
]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["memory=2apples"],
            "error: memory=2apples is no amount of memory; write a number with a unit, memory=2GB",
        ),
        (["-m", "seed=0,1"], "error: plan is of one run; leave -m out."),
        (["model.hiden=4"], "error: unknown key 'model.hiden'"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_sentence(tmp_path, arguments, said):
    done = call(tmp_path, "plan", *TINY, *arguments)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_no_amount_of_memory_is_refused_before_it_has_a_folder(tmp_path):
    done = call(tmp_path, "train", *TINY, "trainer.memory=2apples", "hydra.run.dir=run")
    assert done.code == 1
    assert "trainer.memory=2apples is no amount of memory" in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_plan_is_told_as_tables():
    found = {
        "process": 200e6,
        "data": 50e6,
        "parameters": 1e6,
        "optimizer": 2e6,
        "carried": 0,
        "task": 1e6,
        "peaks": {"begun": 240e6, "trained": 260e6, "tested": 260e6, "end": 300e6},
        "untested": 0,
        "tried": 8,
        "meta_batch": 8,
        "seconds": 8.0,
        "workers": 1,
        "batched": False,
    }
    points = {n: (n * 1e6, float(n)) for n in (1, 2, 3)}
    rows = [
        Row("reverse", points=points, tape={"Convolution": 2_000_000, "Tanh": 1_000_000}),
        Row("implicit", refused="MAML: not with this"),
    ]
    told = text(Plan(rows, 2, 2, found, torch.device("cpu")))
    assert (
        "reverse, 2 inner steps, 1 task at a time: peak of the process 300 MB, 16 s a meta-step of 8 tasks"
        in told
    )
    assert re.search(r"Convolution +2.0 MB\n +Tanh +1.0 MB", told)
    assert re.search(r"peak against inner steps +1 +2 +5 +10 +100\n +reverse +299 MB +300 MB +303 MB", told)
    assert "implicit: MAML: not with this" in told


def test_without_a_budget_nothing_is_chosen():
    config = composed("train", TINY)
    assert settled(config) == (config, "")


def test_an_arm_goes_on_with_what_was_chosen_for_it(tmp_path):
    config = composed("train", [*TINY, "trainer.memory=1GB"])
    earlier: Any = OmegaConf.to_container(config, resolve=False)
    earlier["algorithm"]["meta_gradient"] = "mixed"
    earlier["workers"] = 1
    again = settled_as_before(config, earlier)
    assert (again.algorithm.meta_gradient, again.workers) == ("mixed", 1)
    assert OmegaConf.to_container(again, resolve=False) == earlier
    assert sweeps.earlier_run(tmp_path, config) is None
    without = composed("train", TINY)
    assert settled_as_before(without, earlier) is without


def trained(folder: Path, *overrides: str) -> int:
    """The peak bytes of a run in a process of its own."""
    lines = (
        "from meta.cli.train import main",
        "from meta.planning.memory import peak_of_process",
        "main(); print(peak_of_process())",
    )
    given = [sys.executable, "-c", "\n".join(lines), *overrides, f"hydra.run.dir={folder}"]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_foretold_peaks_are_those_of_runs_and_a_budget_is_kept(tmp_path):
    found = plan(composed("train", DEEP), exact_only=True)
    mixed = next(row for row in found.rows if row.name == "mixed")
    for steps in (5, 10):
        seen = trained(tmp_path / str(steps), *DEEP, f"algorithm.inner_steps={steps}")
        # At 10 the pictures, which are foretold to come on top, find room in what the tapes have left.
        most = found.peak(steps=steps)
        assert max(most - found.parts()["pictures"], 0.9 * most) <= 1.1 * seen
        assert seen <= 1.1 * most
    assert found.peak(mixed) < 0.8 * found.peak()
    budget = round(1.15 * found.peak(mixed))
    folder = tmp_path / "run"
    assert trained(folder, *DEEP, f"trainer.memory={budget}") <= budget
    config = read_header(Checkpoints(folder / "checkpoints").last())["config"]
    assert config["algorithm"]["meta_gradient"] == "mixed"
    assert isinstance(meta.load(folder, which="last").learner.estimator, meta.Mixed)
    resumed = call(tmp_path, "train", "resume=run", "trainer.iterations=3")
    assert resumed.code == 0, resumed.stderr
    assert call(tmp_path, "evaluate", "run_dir=run", "tasks=2").code == 0


@pytest.mark.slow
def test_an_algorithm_without_inner_steps_has_one_row(tmp_path):
    done = call(tmp_path, "plan", *TINY, "algorithm=protonet", "memory=2GB")
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("ProtoNet, ")
    assert "against inner steps" not in done.stdout
    assert "below 2GB: ProtoNet" in done.stdout
    assert list(tmp_path.iterdir()) == []
    refused = call(tmp_path, "train", *TINY, "algorithm=protonet", "trainer.memory=10MB", "hydra.run.dir=run")
    assert refused.code == 1
    assert re.search(r"trainer.memory=10 MB is not enough: .* must be [0-9,]+ MB or more", refused.stderr)
