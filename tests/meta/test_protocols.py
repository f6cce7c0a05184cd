"""One checkpoint under several protocols: each row is the evaluation that it says, paired with the run's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from meta.evaluate import half_width
from meta.evaluate_run import evaluate_run
from meta.protocols import PLACES, compare_protocols, markdown
from meta.task_results import load
from tests.meta.runs import train
from tests.meta.test_evaluate_run import tiny_of
from tests.meta.test_run import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(tiny("trainer.iterations=4", "trainer.val_every=2", "trainer.keep_best=2"), folder)
    return folder


@pytest.mark.slow
def test_rows_are_evaluations_of_what_they_say_and_differences_are_paired(run):
    result = compare_protocols(run, tasks=6)
    assert (run / "plots" / "protocols.png").stat().st_size > 10_000
    assert result["verdict"] in (run / "protocols.md").read_text()
    rows = {row["setting"]: row for row in result["rows"]}
    evaluate_run(run, tasks=6, name="own")
    own = load(run / "own.safetensors").record.scores[:, -1]
    assert result["score"] == float(own.mean())
    for setting, options in {
        "inner_steps=3": {"overrides": {PLACES["inner_steps"]: 3}},
        "inner_reduction=shots": {"overrides": {PLACES["inner_reduction"]: "shots"}},
        "batch_norm=single": {"overrides": {PLACES["batch_norm"]: "single"}},
        "rotations=false": {"overrides": {"rotations": False}},
        "checkpoint=ensemble": {"which": "ensemble"},
    }.items():
        evaluate_run(run, tasks=6, name="other", **options)
        other = load(run / "other.safetensors").record.scores[:, -1]
        row = rows.pop(setting)
        assert row["score"] == float(other.mean())
        assert row["difference"] == pytest.approx(float((other - own).mean()), abs=1e-12)
        assert row["difference_ci95"] == pytest.approx(half_width(other - own), abs=1e-12)
    assert set(rows) >= {"inner_steps=0", "inner_steps=10", "batch_norm=support", "checkpoint=best"}


def test_tasks_of_one_slot_have_the_same_support_whatever_the_queries(run):
    """By which differences between numbers of queries are paired."""
    from meta.finished_run import FinishedRun

    few, many = (FinishedRun.open(run, "test", "last", {"queries": queries}).sampler for queries in (1, 3))
    for slot in range(3):
        assert torch.equal(few.sample(0, [slot]).support.x, many.sample(0, [slot]).support.x)


def test_what_cannot_be_is_a_row_with_its_reason(tmp_path):
    train(tiny("trainer.val_every=0", "task.queries=1"), tmp_path)
    result = compare_protocols(tmp_path, tasks=3)
    rows = {row["setting"]: row for row in result["rows"]}
    assert "no best checkpoint" in rows["checkpoint=best"]["reason"]
    assert "| checkpoint=best | | not possible: " in markdown(result)


def test_a_regression_has_no_reduction_rotations_or_labels(tmp_path):
    small = ("trainer.iterations=2", "trainer.meta_batch=2", "trainer.val_tasks=2", "evaluation.tasks=4")
    train(tiny_of("task=sinusoid", *small, "device=cpu"), tmp_path)
    settings = [row["setting"] for row in compare_protocols(tmp_path, tasks=4)["rows"]]
    assert not [one for one in settings if one.startswith(("inner_reduction", "rotations"))]
    assert "inner_steps=10" in settings


def test_a_loss_is_not_mistaken_for_what_matters_most_by_its_sign(run):
    from meta.problems import MSE
    from meta.protocols import Row, _summary

    base = torch.linspace(1.0, 2.0, 50, dtype=torch.float64)
    said = _summary(
        base, [Row("a=1", base - 0.1), Row("b=1", base + 0.05), Row("inner_steps=0", base + 9)], MSE
    )
    assert said["verdict"].startswith("What matters most is a=1: -0.100")
    assert "lie 0.150 of" in said["verdict"]
