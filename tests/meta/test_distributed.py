"""The same run on any number of ranks, and an end to it, not a wait, when one is gone."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from meta.checkpoint import Checkpoints, read_header
from meta.distributed import ALONE, RankError, Ranks, launched
from meta.machine import resolve_workers
from meta.metrics_file import read_metrics
from meta.resume import resumed_config
from meta.task_results import load
from tests.meta import ranks as jobs
from tests.meta.ranks import run_ranks, values
from tests.meta.runs import train
from tests.meta.test_run import assert_same_run, tiny

TASKS = 7  # of a meta-batch: three ranks have shares of 2, 2 and 3


def config(*overrides: str) -> DictConfig:
    return tiny(f"trainer.meta_batch={TASKS}", "trainer.log_every=1", *overrides)


def folders(base: Path, size: int) -> list[Path]:
    return [base / str(rank) for rank in range(size)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run of one process that all others are held against."""
    folder = tmp_path_factory.mktemp("alone")
    train(config(), folder)
    return folder


@pytest.mark.parametrize("size", [2, 3, 4])
def test_run_is_bit_for_bit_the_same_on_any_number_of_ranks(alone, tmp_path, size):
    results = values(run_ranks(size, jobs.train_run, config(), folders(tmp_path, size)))
    assert_same_run(alone, tmp_path / "0")
    expected = json.loads((alone / "result.json").read_text())
    for key in ("test/accuracy", "test/ci95", "test/loss", "test/tasks", "protocol"):
        assert results[0][key] == expected[key]
    of_tasks, of_alone = (load(folder / "test.safetensors").record for folder in (tmp_path / "0", alone))
    assert all(torch.equal(one, other) for one, other in zip(of_tasks, of_alone, strict=True))
    assert (results[0]["ranks"], expected["ranks"]) == (size, 1)
    # Only rank 0 has written, and all that one process would have.
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert results[1:] == [{}] * (size - 1)
    assert {path.name for path in alone.rglob("*")} == {path.name for path in (tmp_path / "0").rglob("*")}


def test_run_resumes_on_another_number_of_ranks_as_if_never_stopped(alone, tmp_path):
    values(run_ranks(2, jobs.train_run, config("trainer.iterations=2"), folders(tmp_path, 2)))
    resumed = resumed_config(tmp_path / "0", {"trainer.iterations": 4})
    values(run_ranks(3, jobs.train_run, resumed, folders(tmp_path, 3), True))
    assert_same_run(alone, tmp_path / "0")


def test_finished_run_is_not_run_again(tmp_path):
    values(run_ranks(2, jobs.train_run, config("trainer.iterations=2"), folders(tmp_path, 2)))
    before = (tmp_path / "0" / "result.json").read_text()
    resumed = resumed_config(tmp_path / "0", {})
    results = values(run_ranks(2, jobs.train_run, resumed, folders(tmp_path, 2), True))
    assert results == [json.loads(before), {}]


@pytest.mark.parametrize("tasks", [2, 5, 8, 11])
def test_meta_gradient_of_ranks_is_that_of_one_process(tasks):
    expected = jobs.gradient(ALONE, tasks)
    for found in values(run_ranks(2, jobs.gradient, tasks)):
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("algorithm", "family"),
    [("ANIL", "glyphs"), ("MetaSGD", "glyphs"), ("Reptile", "glyphs"), ("MAML", "sinusoids")],
)
def test_every_algorithm_has_the_same_bits_on_ranks(algorithm, family):
    expected = jobs.gradient(ALONE, 6, algorithm, family)
    for found in values(run_ranks(4, jobs.gradient, 6, algorithm, family)):
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_evaluation_is_the_same_on_every_rank_even_with_fewer_tasks(tasks):
    expected = jobs.evaluation(ALONE, tasks)
    for found in values(run_ranks(3, jobs.evaluation, tasks)):
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(found.losses, expected.losses)


@pytest.mark.parametrize("tasks", [1, 5])
def test_what_is_recorded_of_each_step_and_task_is_the_same_on_every_rank(tasks):
    expected = jobs.recorded(ALONE, tasks).record
    assert expected.scores.shape == (tasks, 4)
    for found in values(run_ranks(3, jobs.recorded, tasks)):
        for name, tensor in expected._asdict().items():
            assert torch.equal(getattr(found.record, name), tensor), name


@pytest.mark.parametrize("told", [0, 1])
def test_signal_to_one_rank_ends_all_at_the_same_step_from_which_the_run_goes_on(alone, tmp_path, told):
    """In step 3, of which no checkpoint is due."""
    outcomes = run_ranks(2, jobs.train_until_told, config(), folders(tmp_path, 2), told, 3)
    for outcome in outcomes:
        assert "meta.interruption.Interrupted: SIGTERM" in outcome.error
        assert "RankError" not in outcome.error
    assert [line["step"] for line in read_metrics(tmp_path / "0" / "metrics.jsonl")] == [1, 2, 3]
    assert Checkpoints(tmp_path / "0" / "checkpoints").last().name == "step-00000003.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    train(resumed_config(tmp_path / "0", {}), tmp_path / "0", resume=True)
    assert_same_run(alone, tmp_path / "0")


def test_reason_to_stop_ends_all_ranks_at_the_same_step(alone, tmp_path):
    for outcome in run_ranks(2, jobs.train_until_validated, config(), folders(tmp_path, 2)):
        assert "meta.interruption.Stopped: far behind" in outcome.error
    stopped = json.loads((tmp_path / "0" / "stopped.json").read_text())
    assert (
        Checkpoints(tmp_path / "0" / "checkpoints").last().name
        == f"step-{stopped['iterations']:08}.safetensors"
    )
    train(resumed_config(tmp_path / "0", {}), tmp_path / "0", resume=True)
    assert_same_run(alone, tmp_path / "0")


def test_ranks_hear_what_the_first_says_and_what_any_wishes():
    assert values(run_ranks(3, jobs.tell)) == [({"from": 0}, True, False)] * 3


def test_state_of_the_first_arrives_whole_in_the_memory_format_of_the_others():
    for kept, numbers, step, dtype in values(run_ranks(2, jobs.share_state)):
        assert kept
        assert numbers == [*map(float, range(24)), 1 / 3]
        assert (step, dtype) == (7, torch.float64)


def test_first_rank_of_a_machine_builds_what_the_others_find(tmp_path):
    assert values(run_ranks(3, jobs.build_in_turn, tmp_path / "built")) == [False, True, True]


def test_error_of_one_rank_ends_the_others_at_once():
    outcomes = run_ranks(3, jobs.fail_in_step, 3, 1)
    assert "MemoryError: no memory left on this rank" in outcomes[1].error
    for rank in (0, 2):
        assert f"RankError: rank {rank} of 3 waited for another that failed" in outcomes[rank].error
    assert all(outcome.code == 1 and outcome.seconds < 20 for outcome in outcomes)


def test_nan_is_reported_by_every_rank_with_the_slot_of_the_meta_batch():
    for outcome in run_ranks(2, jobs.nan_in_slot, 3):
        assert "TrainingError: step 2: the query loss of task 3 (iteration 1, slot 3) is nan" in outcome.error


def test_ranks_on_other_data_end_with_its_name():
    for outcome in run_ranks(4, jobs.disagree):
        assert "RankError: rank 2 does not agree with rank 0 on the data: 'checksum 1'" in outcome.error


def test_rank_whose_parameters_drifted_is_found_at_the_next_evaluation():
    for outcome in run_ranks(2, jobs.evaluation, 4, True):
        assert "RankError: rank 1 does not agree with rank 0 on the parameters" in outcome.error


def test_more_ranks_than_tasks_are_refused_before_anything_is_written(tmp_path):
    for outcome in run_ranks(3, jobs.train_run, config("trainer.meta_batch=2"), folders(tmp_path, 3)):
        assert "ValueError: trainer.meta_batch=2 is less than the 3 ranks of this run" in outcome.error
    assert not list((tmp_path / "0").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "what", "timeout_s"),
    [(1, signal.SIGKILL, 600.0), (0, signal.SIGKILL, 600.0), (1, signal.SIGSTOP, 3.0)],
    ids=["killed", "first killed", "stopped"],
)
def test_rank_that_dies_or_hangs_ends_the_run_with_its_checkpoint_whole(tmp_path, victim, what, timeout_s):
    folder = tmp_path / "0"
    endless = config("trainer.iterations=1000000", "trainer.checkpoint_every=2")

    def meddle(processes):
        patience = time.monotonic() + 60
        while not (folder / "checkpoints" / "step-00000002.safetensors").exists():
            assert time.monotonic() < patience
            time.sleep(0.02)
        os.kill(processes[victim].pid, what)
        survivor = processes[1 - victim]
        survivor.join(30)
        assert survivor.exitcode == 1  # it did not wait for ever
        processes[victim].kill()

    outcomes = run_ranks(2, jobs.train_run, endless, folders(tmp_path, 2), timeout_s=timeout_s, meddle=meddle)
    assert f"RankError: rank {1 - victim} of 2 waited for another" in outcomes[1 - victim].error
    step = read_header(Checkpoints(folder / "checkpoints").last())["step"]
    assert step >= 2
    train(resumed_config(folder, {"trainer.iterations": step + 2}), folder, resume=True)
    (tmp_path / "whole").mkdir()
    train(config(f"trainer.iterations={step + 2}", "trainer.checkpoint_every=2"), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", folder)


def test_shares_cover_everything_once_and_evenly():
    for size in range(1, 9):
        for count in (0, 1, 7, 32, 100):
            shares = [Ranks(rank, size).share(count) for rank in range(size)]
            assert [slot for share in shares for slot in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_place_is_read_from_torchrun_alone():
    place = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert launched(place) == ALONE
    assert launched({**place, "TORCHELASTIC_RUN_ID": "x"}) == Ranks(index=5, size=8, local=1, local_size=4)
    with pytest.raises(RankError, match="start with torchrun"):
        launched({"TORCHELASTIC_RUN_ID": "x", "RANK": "5"})


def test_each_rank_has_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    second = Ranks(index=3, size=4, local=1, local_size=2)
    assert second.device(torch.device("cuda")) == torch.device("cuda", 1)
    assert second.device(torch.device("cpu")) == torch.device("cpu")
    assert ALONE.device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="device=cuda:1 names one GPU for 4 ranks"):
        second.device(torch.device("cuda", 1))
    with pytest.raises(
        ValueError, match=r"3 ranks on this machine, which has 2 GPUs; start --nproc-per-node=2"
    ):
        Ranks(0, 3, 0, 3).device(torch.device("cuda"))


def test_ranks_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(10)), raising=False)
    cpu = torch.device("cpu")
    assert [resolve_workers("auto", cpu, Ranks(0, n, 0, n)) for n in (2, 4, 16)] == [5, 2, 1]
    assert resolve_workers("auto", cpu, ALONE) == torch.get_num_threads()
    assert resolve_workers(3, cpu, Ranks(0, 2, 0, 2)) == 3


def test_time_to_wait_has_to_be_positive():
    with pytest.raises(ValueError, match="rank_timeout_s=0 is invalid"), Ranks(0, 2, 0, 2).connected(0):
        pass
