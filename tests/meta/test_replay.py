"""A task that a run has met, met again: the same bits from any checkpoint, after a resume and on several ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meta.checkpoint import Checkpoints
from meta.experiment import Experiment
from meta.interruption import Stopped
from meta.replay import bits, hardest_tasks, replay, replay_run, state_at
from meta.resume import resumed_config
from meta.task_results import ResultsError, load
from neo import pytree
from tests.meta import ranks as jobs
from tests.meta.ranks import run_ranks, values
from tests.meta.runs import train
from tests.meta.test_evaluate_run import tiny_of
from tests.meta.test_run import tiny

LONG = ("trainer.iterations=6", "trainer.checkpoint_every=2", "trainer.val_every=3", "workers=1")


@pytest.fixture(scope="module")
def met(tmp_path_factory) -> tuple[Path, dict[tuple[int, int], tuple[int, str]]]:
    """A run that was killed after its third step and went on; and what each of its tasks was and gave."""
    folder = tmp_path_factory.mktemp("run")

    def killed(step: int, score: float) -> str | None:
        return "enough" if step == 3 else None

    with jobs.watched() as seen:
        with pytest.raises(Stopped):
            train(tiny(*LONG), folder, validated=killed)
        assert len({iteration for iteration, _ in seen}) == 3
        train(resumed_config(folder, {}), folder, resume=True)
    assert len({iteration for iteration, _ in seen}) == 6
    return folder, seen


@pytest.mark.parametrize("iteration", [0, 3, 5])
def test_a_task_and_its_gradient_have_the_run_s_own_bits(met, iteration):
    folder, seen = met
    for slot in (0, 1):
        found = replay_run(folder, iteration=iteration, slot=slot)
        assert (found["task"], found["gradient_sha256"]) == seen[iteration, slot]
    assert json.loads((folder / "replay.json").read_text()) == found
    assert found["steps"][-1]["loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert (folder / "plots" / "replay.png").stat().st_size > 5_000


def test_the_same_from_the_first_step_on_where_no_checkpoint_is_nearer(met, tmp_path):
    folder, seen = met
    experiment = Experiment(tiny(*LONG))
    state, nearest = state_at(experiment, tmp_path, 4)
    assert nearest is None
    found = replay(experiment, state, 1)
    assert (found.task.checksum(), bits(pytree.leaves(found.result.gradient))) == seen[4, 1]
    _, nearest = state_at(experiment, folder, 5)
    assert nearest in Checkpoints(folder / "checkpoints").paths()
    assert nearest.stem.endswith("4")


@pytest.mark.parametrize(
    ("iteration", "slot", "sentence"),
    [
        (-1, 0, "iteration=-1 must be from 0 to 6"),
        (7, 0, "iteration=7 must be"),
        (1, 9, "slot=9 must be from 0 to "),
    ],
)
def test_what_no_run_has_met_is_refused(met, iteration, slot, sentence):
    with pytest.raises(ValueError, match=sentence):
        replay_run(met[0], iteration=iteration, slot=slot)


def test_hardest_tasks_are_those_of_the_lowest_scores(met):
    folder = met[0]
    found = hardest_tasks(folder, tasks=3)
    record = load(folder / "test.safetensors").record
    assert [one["accuracy"] for one in found["tasks"]] == sorted(record.scores[:, -1].tolist())[:3]
    assert [one["checksum"] for one in found["tasks"]] == [
        int(record.checksums[one["slot"]]) for one in found["tasks"]
    ]
    assert (folder / "plots" / "hardest.png").stat().st_size > 5_000
    with pytest.raises(ValueError, match="hardest=99 must be from 1 to"):
        hardest_tasks(folder, tasks=99)
    with pytest.raises(ResultsError, match="is not the one that this run's configuration draws"):
        hardest_tasks(folder, tasks=1, overrides={"evaluation.seed": 5})


def test_what_two_ranks_met_is_met_again_by_one_process(tmp_path):
    folders = [tmp_path / str(rank) for rank in range(2)]
    first, second = values(run_ranks(2, jobs.train_watched, tiny(*LONG), folders))
    assert second.pop((0, 0)) == first[0, 0]  # which every rank tries before the run
    assert set(first).isdisjoint(second)
    for (iteration, slot), expected in [*list(first.items())[-1:], *list(second.items())[-1:]]:
        found = replay_run(folders[0], iteration=iteration, slot=slot)
        assert (found["task"], found["gradient_sha256"]) == expected


def test_a_regression_s_tasks_are_met_again_too(tmp_path):
    small = ("trainer.iterations=3", "trainer.meta_batch=2", "trainer.val_tasks=2", "evaluation.tasks=4")
    with jobs.watched() as seen:
        train(tiny_of("task=sinusoid", *small, "device=cpu", "workers=1"), tmp_path)
    found = replay_run(tmp_path, iteration=2, slot=1)
    assert (found["task"], found["gradient_sha256"]) == seen[2, 1]
    assert found["classes"] is None
