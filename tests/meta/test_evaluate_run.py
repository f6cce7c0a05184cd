"""A finished run under other protocols than its own."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object

from meta import experiment, files
from meta.checkpoint import Checkpoints, load
from meta.evaluate import evaluate
from meta.evaluate_run import evaluate_run
from meta.finished_run import NotWritten
from meta.paired import difference
from meta.task_results import load as load_results
from tests.meta.runs import train
from tests.meta.test_run import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(tiny("task.ways=4"), folder)
    return folder


@pytest.fixture(scope="module")
def sinusoids(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sinusoids")
    small = (
        "trainer.iterations=2",
        "trainer.meta_batch=2",
        "trainer.val_tasks=2",
        "evaluation.tasks=4",
        "device=cpu",
    )
    train(tiny_of("task=sinusoid", *small), folder)
    return folder


def tiny_of(*overrides: str):
    from hydra import compose, initialize_config_module

    with initialize_config_module("conf", version_base="1.3"):
        return compose("train", list(overrides))


def test_every_step_is_in_the_result_and_in_the_files(run):
    result = evaluate_run(run, tasks=6, overrides={"evaluation.inner_steps": 3})
    assert len(result["test/steps"]) == 4
    assert result["test/steps"][3]["accuracy"] == result["test/accuracy"]
    assert result == json.loads((run / "evaluation.json").read_text())
    kept = load_results(run / "evaluation.safetensors")
    assert (kept.tasks, kept.steps) == (6, 3)
    assert [step.score for step in kept.by_step()] == [step["accuracy"] for step in result["test/steps"]]
    assert result["trained_as"] == {"test_inner_steps": 1, "test_tasks": 5}
    assert (run / "plots" / "evaluation.png").stat().st_size > 10_000


def test_evaluation_meets_the_tasks_of_the_run_s_own_test(run):
    evaluate_run(run, tasks=8)
    own, again = (load_results(run / f"{name}.safetensors") for name in ("test", "evaluation"))
    assert again.record.checksums[:5].tolist() == own.record.checksums.tolist()
    found = difference(own, again)
    assert (found.tasks, found.mean, found.better, found.worse) == (5, 0, 0, 0)


def test_protocol_of_the_tasks_can_be_another(run):
    result = evaluate_run(
        run, tasks=3, name="other", overrides={"shots": 3, "queries": 5, "rotations": False}
    )
    protocol = result["protocol"]
    assert (protocol["shots"], protocol["queries"], protocol["test_rotations"]) == (3, 5, False)
    assert result["trained_as"]["shots"] == 1
    assert {path.name for path in run.glob("other.*")} == {"other.json", "other.safetensors"}


@pytest.mark.parametrize("batch_norm", ["batch", "single", "support"])
def test_fewer_ways_equal_a_head_made_so_small(run, batch_norm):
    result = evaluate_run(run, tasks=6, overrides={"ways": 2, "evaluation.batch_norm": batch_norm})
    config = tiny("task.ways=2")
    built = experiment.Experiment(config)
    trained = experiment.Experiment(tiny("task.ways=4"))
    state = load(Checkpoints(run / "checkpoints").last(), trained.trainer.start("cpu"))
    small = {name: leaf[:2] if name.startswith("head.") else leaf for name, leaf in state.params.items()}
    expected = evaluate(built.learner, small, built.sampler("test"), 6, inner_steps=1, batch_norm=batch_norm)
    assert result["test/accuracy"] == expected.mean
    assert result["test/loss"] == pytest.approx(expected.loss, rel=1e-5)


def test_batch_norm_policies_give_different_numbers_on_the_same_tasks(run):
    losses = {
        name: evaluate_run(run, tasks=6, name=name, overrides={"evaluation.batch_norm": name})["test/loss"]
        for name in ("batch", "single", "support")
    }
    assert len({round(loss, 6) for loss in losses.values()}) == 3
    one, other = (load_results(run / f"{name}.safetensors") for name in ("batch", "support"))
    assert torch.equal(one.record.checksums, other.record.checksums)


def test_regression_is_evaluated_as_such(sinusoids):
    result = evaluate_run(sinusoids, tasks=5, overrides={"evaluation.inner_steps": 2, "shots": 5})
    assert result["metric"] == "mse"
    assert [set(step) for step in result["test/steps"]] == [{"mse", "ci95", "loss"}] * 3
    assert result["protocol"]["shots"] == 5
    assert (sinusoids / "plots" / "evaluation.png").exists()


def test_queries_of_the_test_are_those_that_are_changed(sinusoids):
    result = evaluate_run(sinusoids, tasks=2, overrides={"queries": 7})
    assert result["protocol"]["test_queries"] == 7
    assert result["trained_as"]["test_queries"] != 7


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"overrides": {"ways": 6}}, r"ways=6 is more than the 4 classes that the run's model tells apart"),
        ({"overrides": {"ways": "five"}}, r"ways='five' must be an integer"),
        ({"overrides": {"shots": 40}}, r"need 42 images of each class"),
        ({"overrides": {"evaluation.inner_steps": -1}}, r"steps must be an integer of 0 or more, got -1"),
        ({"overrides": {"evaluation.batch_norm": "mine"}}, r"unknown evaluation\.batch_norm='mine'"),
        ({"part": "train"}, r"unknown part='train'"),
        ({"which": "first"}, r"unknown checkpoint='first'"),
        ({"name": "../x"}, r"name='\.\./x' cannot name an evaluation's files"),
        ({"name": "result"}, r"name='result' cannot name"),
        ({"tasks": 0}, r"tasks must be an integer of 1 or more"),
    ],
)
def test_protocol_that_the_run_cannot_hold_is_refused_and_nothing_is_written(run, settings, sentence):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=sentence):
        evaluate_run(run, **{"tasks": 2, **settings})
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_tasks_without_ways_refuse_them(sinusoids):
    with pytest.raises(ValueError, match=r"ways=3: the tasks of this run, tasks\.Sinusoid, have no ways"):
        evaluate_run(sinusoids, tasks=2, overrides={"ways": 3})


def test_folder_that_cannot_be_written_is_refused_before_anything_is_computed(run, tmp_path, monkeypatch):
    for name in ("checkpoints", "metrics.jsonl"):
        (tmp_path / name).symlink_to(run / name)
    (tmp_path / "plots").write_text("no folder")
    monkeypatch.setattr("meta.finished_run.Experiment", None)  # what would compute
    with pytest.raises(NotADirectoryError, match="plots"):
        evaluate_run(tmp_path, tasks=2)
    monkeypatch.setattr(files.tempfile, "TemporaryFile", read_only)
    with pytest.raises(OSError, match=r"Read-only file system: '.*run\d*'"):
        evaluate_run(run, tasks=2)


def read_only(dir: Path) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_numbers_survive_a_write_that_fails(run, monkeypatch, failing):
    """Of the per-task results, the picture, or the result itself."""
    expected = evaluate_run(run, tasks=3, name="whole")
    writes = iter(range(10))

    def fail(original):
        def write(*arguments, **settings):
            if next(writes) == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")
            return original(*arguments, **settings)

        return write

    for place in ("meta.task_results.write", "meta.plots.inner_steps", "meta.evaluate_run.write_json"):
        monkeypatch.setattr(place, fail(get_object(place)))
    with pytest.raises(NotWritten, match="No space left on device: 'there'") as caught:
        evaluate_run(run, tasks=3, name="lost")
    assert caught.value.result == expected
    assert not (run / "lost.json").exists()
