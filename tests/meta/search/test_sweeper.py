"""Trials asked for, run and told; what a kill cuts off goes on as if nothing had been."""

from __future__ import annotations

import json

import optuna
import pytest
from optuna.trial import TrialState

from meta.cli.value_types import ConfigError
from meta.files import lock_dir
from meta.search import samplers
from meta.search.space import Space
from meta.search.sweeper import SearchError
from tests.meta.search.searching import Killed, search


def score(number: int) -> float:
    return (7 * number % 10) / 10


def params(study: optuna.Study) -> list[dict]:
    return [trial.params for trial in study.trials]


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_study_has_a_trial_for_every_arm_and_its_validation_score(tmp_path):
    study, launcher = search(tmp_path, score)
    assert launcher.batches == [[0], [1], [2], [3], [4], [5]]
    assert [trial.value for trial in study.trials] == pytest.approx([score(number) for number in range(6)])
    told = json.loads((tmp_path / "search.json").read_text())
    assert told["objectives"] == [{"name": "accuracy", "direction": "maximize"}]
    assert told["best"] == [str(study.best_trial.number)] == ["4"]
    again = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path}/study.db")
    assert (params(again), again.metric_names) == (params(study), ["accuracy"])


@pytest.mark.parametrize(
    "sampler",
    ["tpe", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted({*samplers.SAMPLERS} - {"tpe"}))],
)
def test_proposals_follow_the_seed_and_a_kill_changes_none(tmp_path, sampler):
    settings = {"sampler": sampler, "n_trials": 5, "space": ["a=interval(0.0, 1)", "b=int(interval(1, 9))"]}
    if sampler in ("tpe", "gp"):
        settings["sampler_options"] = {"n_startup_trials": 2}
    whole, _ = search(tmp_path / "whole", score, **settings)
    other, _ = search(tmp_path / "other", score, seed=1, **settings)
    assert params(whole) != params(other)
    for killed_at in (1, 3):
        with pytest.raises(Killed):
            search(tmp_path / "killed", lambda n, at=killed_at: Killed() if n == at else score(n), **settings)
    found, launcher = search(tmp_path / "killed", score, **settings)
    assert launcher.batches == [[3], [4]]  # the one that was running first
    assert params(found) == params(whole)
    assert states(found) == ["COMPLETE"] * 5


def test_batch_that_a_kill_cut_off_is_run_again_without_what_had_ended(tmp_path):
    def dies(number: int) -> float | Killed:
        return Killed() if number == 6 else score(number)

    whole, launcher = search(tmp_path / "whole", score, n_jobs=4, n_trials=10)
    assert launcher.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    with pytest.raises(Killed):
        search(tmp_path / "killed", dies, n_jobs=4, n_trials=10)
    found, launcher = search(tmp_path / "killed", score, n_jobs=4, n_trials=10)
    assert launcher.batches == [[6, 7], [8, 9]]  # 4 and 5 had left their results, and were told
    assert params(found) == params(whole)


def test_search_killed_while_it_proposes_goes_on_to_the_same_proposals(tmp_path, monkeypatch):
    whole, _ = search(tmp_path / "whole", score, n_jobs=2, sampler="random")
    sound = Space.propose

    def propose(self: Space, trial: optuna.Trial) -> list[str]:
        if trial.number == 3:
            raise Killed
        return sound(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(Space, "propose", propose)
        with pytest.raises(Killed):
            search(tmp_path / "killed", score, n_jobs=2, sampler="random")
    found, launcher = search(tmp_path / "killed", score, n_jobs=2, sampler="random")
    assert launcher.batches == [[2, 3], [4, 5]]
    assert params(found) == params(whole)


def test_trial_that_somebody_wishes_for_is_run(tmp_path):
    study, _ = search(tmp_path, score, n_trials=2)
    wish = {"algorithm.inner_lr": 0.5, "algorithm.inner_steps": 5}
    study.enqueue_trial(wish)
    study, launcher = search(tmp_path, score, n_trials=4)
    assert launcher.batches == [[2], [3]]
    assert study.trials[2].params == wish


def test_finished_search_runs_nothing_and_a_larger_one_goes_on(tmp_path):
    search(tmp_path, score, n_trials=2)
    assert search(tmp_path, score, n_trials=2)[1].batches == []
    assert search(tmp_path, score, n_trials=4)[1].batches == [[2], [3]]


def test_stopped_trial_says_why_and_is_no_failure(tmp_path):
    study, _ = search(tmp_path, lambda n: "stopped at step 3" if n == 1 else score(n), n_trials=3)
    assert states(study) == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert study.trials[1].user_attrs["reason"] == "stopped at step 3"
    assert json.loads((tmp_path / "search.json").read_text())["trials"]["1"]["state"] == "stopped"


def test_failed_trials_are_findings_until_too_many_follow_one_another(tmp_path):
    study, _ = search(tmp_path / "some", lambda n: ValueError("diverged") if n % 2 else score(n))
    assert states(study) == ["COMPLETE", "FAIL"] * 3
    assert study.trials[1].user_attrs["reason"] == "diverged"
    with pytest.raises(
        SearchError, match=r"2 trials have failed one after another, the last one so: diverged"
    ):
        search(tmp_path / "all", lambda n: ValueError("diverged"), max_failures=2)
    with pytest.raises(SearchError, match=r"every trial failed, the last one so: diverged"):
        search(tmp_path / "few", lambda n: ValueError("diverged"), n_trials=1)


def test_trial_that_another_process_still_writes_is_left_to_it(tmp_path):
    busy = BlockingIOError("0 is being written by process.")
    with pytest.raises(SearchError, match=r"trial 0: 0 is being written .* give the same command again"):
        search(tmp_path, lambda n: busy)
    study, launcher = search(tmp_path, score, n_trials=1)
    assert (launcher.batches, states(study)) == ([[0]], ["COMPLETE"])


def test_search_that_is_going_on_keeps_another_out(tmp_path):
    with lock_dir(tmp_path), pytest.raises(BlockingIOError, match=r"is being written by process"):
        search(tmp_path, score)


def test_two_objectives_have_a_pareto_front(tmp_path):
    settings = {"objectives": ["score", "train/accuracy"], "directions": ["maximize", "minimize"]}
    study, _ = search(tmp_path, score, names=["accuracy", "train/accuracy"], n_trials=4, **settings)
    told = json.loads((tmp_path / "search.json").read_text())
    assert told["best"] == [str(trial.number) for trial in study.best_trials]
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_study_that_looks_for_something_else_is_refused(tmp_path):
    search(tmp_path, score, n_trials=1)
    with pytest.raises(ConfigError, match=r"is to maximize accuracy, and this command to minimize mse"):
        search(tmp_path, score, directions=["minimize"], names=["mse"])


def test_journal_is_a_storage_too(tmp_path):
    address = str(tmp_path / "study.log")
    study, _ = search(tmp_path, score, n_trials=2, storage=address)
    journal = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(address))
    assert params(optuna.load_study(study_name="study", storage=journal)) == params(study)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("study.db", "is neither the URL of a database"),
        ("nowhere://study", "cannot be opened: "),
    ],
)
def test_storage_that_cannot_be_is_refused(tmp_path, address, sentence):
    with pytest.raises(ConfigError) as caught:
        search(tmp_path, score, storage=address)
    assert f"{address} {sentence}" in str(caught.value)
