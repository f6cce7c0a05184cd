"""A function of the user's own as a family of tasks, by its import path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from meta.metrics_file import read_metrics
from tests.meta.cli.test_commands import call

SOURCE = """
import torch
import tasks

def lines(generator, points=5):
    slope, offset = 2 * torch.rand(2, generator=generator) - 1
    x = 2 * torch.rand(2 * points, 1, generator=generator) - 1
    y = slope * x + offset
    return tasks.Task(tasks.Batch(x[:points], y[:points]), tasks.Batch(x[points:], y[points:]))
"""
SMALL = [
    "task=function",
    "trainer.iterations=4",
    "trainer.meta_batch=2",
    "trainer.log_every=1",
    "trainer.val_tasks=2",
]
SMALL += ["evaluation.tasks=4", "device=cpu", "algorithm.inner_lr=0.05", "model._args_=[1,8,1]"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    (tmp_path / "my_own_tasks.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_own_tasks", None)


def test_function_trains_and_resumes_to_the_same_bits(here):
    given = ["task.dataset.function=my_own_tasks.lines", "task.dataset.options.points=7"]
    for run, iterations in (("whole", 4), ("stopped", 2)):
        done = call(here, "train", *SMALL, *given, f"trainer.iterations={iterations}", f"hydra.run.dir={run}")
        assert done.code == 0, done.stderr
    done = call(here, "train", "resume=stopped", "trainer.iterations=4")
    assert done.code == 0, done.stderr
    whole, resumed = (
        [line["train/loss"] for line in read_metrics(here / run / "metrics.jsonl")]
        for run in ("whole", "stopped")
    )
    assert whole == resumed
    assert len(whole) == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "task.dataset.function=None must be the import path of a function"),
        (["task.dataset.function=my_own_tasks.lnies"], "my_own_tasks has no 'lnies'; did you mean lines?"),
        (
            ["task.dataset.function=my_own_tasks.lines", "task.dataset.options.poits=3"],
            "lines has no argument poits; it takes generator, points",
        ),
    ],
)
def test_function_that_cannot_be_called_so_is_said_before_training(here, arguments, sentence):
    done = call(here, "train", *SMALL, *arguments, "hydra.run.dir=refused")
    assert done.code == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
