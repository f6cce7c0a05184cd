"""Searches as a user runs them: what cannot be is refused, a killed one goes on, stopped trials keep what they have."""

from __future__ import annotations

import json
import time
from pathlib import Path

import optuna
import pytest

from meta.checkpoint import Checkpoints
from meta.cli import sweeps
from meta.cli.configs import composed
from meta.cli.overrides import ConfigError, parse
from meta.report import page, read
from meta.search.sweeper import PLUGIN
from tests.meta.cli.test_commands import TINY, call, start
from tests.meta.cli.test_sweep import swept

STEPS = "algorithm.inner_steps=1,2"
SEARCH = (
    "sweep=optuna",
    "hydra.sweeper.n_trials=10",
    "hydra.sweeper.pruner=median",
    "hydra.sweeper.pruner_options.n_startup_trials=2",
    "trainer.iterations=8",
    "trainer.val_every=2",
    "algorithm.inner_lr=tag(log, interval(0.01, 1))",
    "algorithm=maml,fomaml",
)


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="study", storage=f"sqlite:///{folder}/multirun/study/study.db")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the search was given nothing to search over; give a range to some value"),
        (
            [STEPS, "trainer.val_every=0"],
            "the search looks for the best validation score, and trainer.val_every=0",
        ),
        (
            [STEPS, "trainer.patience=2"],
            "trainer.patience=2 stops runs without a result, which a search takes for no use; leave it out",
        ),
        (
            [STEPS, "hydra.sweeper.sampler=tpee"],
            "unknown hydra.sweeper.sampler 'tpee'; expected one of cmaes, gp",
        ),
        ([STEPS, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0 must be an integer ≥ 1."),
        ([STEPS, "hydra.sweeper.objectives=[time]"], "unknown objective 'time' in hydra.sweeper.objectives"),
        (
            [STEPS, "hydra.sweeper.pruner=median", "hydra.sweeper.objectives=[score,seconds]"],
            "hydra.sweeper.pruner=median stops a trial by its validation score; it needs hydra.sweeper.objectives=[sc",
        ),
        (
            ["algorithm.inner_steps=interval(1,5)"],
            "algorithm.inner_steps takes no fractions, and interval(1, 5) has them; write int(interval(1, 5)).",
        ),
    ],
)
def test_search_that_cannot_be_is_refused_in_one_sentence(tmp_path, arguments, sentence):
    done = call(tmp_path, "train", "-m", "sweep=optuna", *arguments)
    assert done.code == 1
    assert done.stderr.startswith(f"error: {sentence}")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_study_of_an_old_optuna_is_refused_by_name(tmp_path):
    """Its tables, as Optuna 2.10 left them, are told by their version alone."""
    made = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/old.db")
    with made.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    made.engine.dispose()
    done = call(tmp_path, "train", "-m", "sweep=optuna", STEPS, "hydra.sweeper.storage=sqlite:///old.db")
    assert done.code == 1
    assert "error: sqlite:///old.db was written by another version of Optuna" in done.stderr
    assert "optuna storage upgrade --storage sqlite:///old.db" in done.stderr


def test_old_optuna_is_refused_by_its_version(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.10.1")
    with pytest.raises(
        ConfigError, match=r"needs optuna 5 or newer, found 2\.10\.1; pip install -U 'neo-meta\[sweep\]'"
    ):
        sweeps.require("optuna")


def test_score_is_searched_by_the_direction_of_its_metric(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = sweeps.prepare("train", parse(["sweep=optuna", STEPS]))
    assert found[1:] == ["hydra.sweeper.directions=[maximize]", "hydra.sweeper.names=[accuracy]"]
    of_error = ["sweep=optuna", "task=sinusoid", "model=mlp", STEPS, "hydra.sweeper.study_name=other"]
    found = sweeps.prepare("train", parse([*of_error, "hydra.sweeper.objectives=[score,seconds]"]))
    assert found[1:] == ["hydra.sweeper.directions=[minimize,minimize]", "hydra.sweeper.names=[mse,seconds]"]


def test_hydra_finds_the_sweeper_under_its_name():
    assert composed("train", ["sweep=optuna"], with_hydra=True).hydra.sweeper._target_ == PLUGIN


@pytest.mark.slow
def test_killed_search_goes_on_to_the_same_trials(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    process = swept(tmp_path / "whole", *SEARCH)
    assert process.returncode == 0, process.err
    folder = tmp_path / "killed" / "multirun" / "study"
    process = start(tmp_path / "killed", "train", "-m", *TINY, *SEARCH)
    patience = time.monotonic() + 200
    while not (folder / "4" / "metrics.jsonl").exists() and time.monotonic() < patience:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert "RUNNING" in {trial.state.name for trial in study(tmp_path / "killed").trials}
    process = swept(tmp_path / "killed", *SEARCH)
    assert process.returncode == 0, process.err

    def told(name: str) -> list[tuple]:
        return [
            (trial.state.name, trial.params, trial.value, trial.intermediate_values)
            for trial in study(tmp_path / name).trials
        ]

    assert told("killed") == told("whole")
    states = [state for state, *_ in told("killed")]
    assert len(states) == 10
    assert set(states) == {"COMPLETE", "PRUNED"}
    _stopped_arms_are_whole(folder, states)


def _stopped_arms_are_whole(folder: Path, states: list[str]) -> None:
    """They keep a checkpoint of the step that they ended at, say why, and are shown as stopped."""
    arms = read(folder).arms
    assert [arm.status for arm in arms] == [
        "stopped" if state == "PRUNED" else "finished" for state in states
    ]
    stopped = next(arm for arm in arms if arm.status == "stopped")
    told = json.loads((folder / stopped.name / "stopped.json").read_text())
    assert told["reason"] == stopped.reason
    assert stopped.reason.startswith(f"stopped at step {told['iterations']} by the median pruner")
    last = Checkpoints(folder / stopped.name / "checkpoints").last()
    assert int(last.stem.partition("-")[2]) == told["iterations"] == stopped.lines[-1]["step"]
    assert stopped.reason.partition("'")[0] in page(read(folder))


@pytest.mark.exhaustive
def test_trials_side_by_side_are_pruned_too_and_several_objectives_have_a_front(tmp_path):
    """Each trial in a process of its own, which reports to the study by itself."""
    together = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2", "workers=1")
    process = swept(tmp_path, *SEARCH, *together)
    assert process.returncode == 0, process.err
    states = {trial.state.name for trial in study(tmp_path).trials}
    assert states == {"COMPLETE", "PRUNED"}
    assert all(trial.intermediate_values for trial in study(tmp_path).trials)

    two = (
        "hydra.sweeper.objectives=[score,seconds]",
        "hydra.sweeper.n_trials=4",
        "hydra.sweep.dir=two",
        "sweep=optuna",
    )
    process = swept(tmp_path, *two, *together, *SEARCH[-2:])
    assert process.returncode == 0, process.err
    front = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path}/two/study.db").best_trials
    html = page(read(tmp_path / "two"))
    assert "Pareto front of accuracy (more is better) and seconds (less is better): arm " in html
    assert html.count('<span class="pill ref">Pareto front</span>') == len(front)


@pytest.mark.slow
def test_successive_halving_takes_the_best_third_of_each_rung_on(tmp_path):
    rates = "algorithm.inner_lr=tag(log, interval(0.001, 1))"
    process = swept(
        tmp_path, "sweep=successive_halving", "hydra.sweeper.n_trials=9", "trainer.iterations=9",
        "trainer.val_every=1", "trainer.val_tasks=20", rates,
    )  # fmt: skip
    assert process.returncode == 0, process.err
    folder = tmp_path / "multirun" / "halving"
    trials = optuna.load_study(study_name="halving", storage=f"sqlite:///{folder}/study.db").trials
    stopped = [trial.last_step for trial in trials if trial.state.name == "PRUNED"]
    assert set(stopped) <= {1, 3, 9}  # the rungs: the first at val_every, each three times as far
    assert len(stopped) >= 4
    # Asynchronous: a trial is held against those that had come to the rung before it.
    for trial in trials:
        for rung in (1, 3):
            if trial.last_step < rung:
                continue
            before = [
                one.intermediate_values[rung]
                for one in trials[: trial.number]
                if rung in one.intermediate_values
            ]
            own = trial.intermediate_values[rung]
            places = max(1, (len(before) + 1) // 3)
            among_best = sum(value > own for value in before) < places
            assert among_best == (trial.last_step > rung)


@pytest.mark.slow
def test_search_goes_on_after_a_trial_that_diverged(tmp_path):
    process = swept(tmp_path, "sweep=optuna", "hydra.sweeper.n_trials=4", "algorithm.inner_lr=1e38,0.4")
    assert process.returncode == 0, process.err
    arms = read(tmp_path / "multirun" / "study").arms
    assert len(arms) == 4
    assert {arm.status for arm in arms} == {"failed", "finished"}
