"""What a trial's process reports, and what it is told."""

from __future__ import annotations

import optuna
import pytest

from meta.cli.value_types import ConfigError
from meta.search import samplers
from meta.search.pruning import reporter


def settings(tmp_path, number: int | None, **others) -> dict:
    return {
        "trial": number,
        "objectives": ["score"],
        "study_name": "study",
        "storage": f"sqlite:///{tmp_path}/study.db",
        "pruner": "median",
        "pruner_options": {"n_startup_trials": 1},
        **others,
    }


@pytest.fixture
def study(tmp_path) -> optuna.Study:
    """A finished trial that reported 0.5 and 0.9, and one that runs."""
    study = optuna.create_study(
        study_name="study", storage=f"sqlite:///{tmp_path}/study.db", direction="maximize"
    )
    report = reporter(settings(tmp_path, study.ask().number))
    assert [report(10, 0.5), report(20, 0.9)] == [None, None]
    study.tell(0, 0.9)
    study.ask()
    return study


def test_trial_behind_the_others_is_told_to_stop_and_why(study, tmp_path):
    report = reporter(settings(tmp_path, 1))
    assert report(10, 0.6) is None
    assert report(20, 0.61) == (
        "stopped at step 20 by the median pruner: its validation score, 0.61, falls behind the other trials'"
    )
    assert study.trials[1].intermediate_values == {10: 0.6, 20: 0.61}


def test_trial_that_goes_on_reports_no_step_twice(study, tmp_path):
    reporter(settings(tmp_path, 1))(10, 0.6)
    report = reporter(settings(tmp_path, 1))
    assert report(10, 0.6) is None  # Optuna warns of a second report, and a warning is an error here
    assert "stopped" in (report(20, 0.3) or "")


def test_run_that_is_no_trial_or_has_several_objectives_reports_nothing(tmp_path):
    for told in ({}, settings(tmp_path, None), settings(tmp_path, 0, objectives=["score", "seconds"])):
        assert reporter(told)(10, 0.1) is None
    assert not list(tmp_path.iterdir())


def test_storage_that_fails_does_not_stop_the_run(study, tmp_path, caplog, monkeypatch):
    report = reporter(settings(tmp_path, 1))
    monkeypatch.setattr(optuna.trial.Trial, "report", lambda *_: 1 / 0)
    assert report(10, 0.6) is None
    assert "trial 1 could not report step 10" in caplog.text


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: samplers.sampler("tpee", {}, 0, 0), "unknown hydra.sweeper.sampler 'tpee'; expected one of cmaes"),
        (lambda: samplers.sampler("cmaes", {}, 0, 0, 2), "cmaes knows one objective, and hydra.sweeper.obj"),
        (lambda: samplers.pruner("mean", {}), "unknown hydra.sweeper.pruner 'mean'; expected one of hyperband"),
        (lambda: samplers.pruner("median", {"warmup": 1}), "hydra.sweeper.pruner_options.warmup is no argument"),
        (lambda: samplers.pruner("percentile", {}), "needs percentile; give hydra.sweeper.pruner_options.percentile"),
        (lambda: samplers.pruner("median", {"n_startup_trials": -1}), "hydra.sweeper.pruner=median: "),
    ],
)  # fmt: skip
def test_setting_that_cannot_be_is_named(build, sentence):
    with pytest.raises(ConfigError) as caught:
        build()
    assert sentence in str(caught.value)
