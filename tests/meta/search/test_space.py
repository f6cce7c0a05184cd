"""Overrides as Optuna's distributions, and a proposal as overrides again."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from meta.cli.value_types import ConfigError
from meta.search.space import read


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("a.b=interval(0.1, 2)", FloatDistribution(0.1, 2.0)),
        ("a.b=tag(log, interval(0.01, 1))", FloatDistribution(0.01, 1.0, log=True)),
        ("a.b=int(interval(1, 5))", IntDistribution(1, 5)),
        ("a.b=int(tag(log, interval(1, 64)))", IntDistribution(1, 64, log=True)),
        ("a.b=range(1, 6, 2)", IntDistribution(1, 5, step=2)),
        ("a.b=range(5, 0, -2)", IntDistribution(1, 5, step=2)),
        ("a.b=range(0.0, 1.0, 0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("a.b=1,5", CategoricalDistribution([1, 5])),
        ("a.b=0.1,null,true", CategoricalDistribution([0.1, "null", True])),
        ("a.b=[1,2],[3]", CategoricalDistribution(["[1,2]", "[3]"])),
        ("a.b='x, y',z", CategoricalDistribution(["'x, y'", "z"])),
    ],
)
def test_override_is_a_distribution(override, distribution):
    assert read([override], {}).distributions == {"a.b": distribution}


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("a=glob(*)", "takes no glob"),
        ("a=interval(1, 0.5)", "low < high, got low 1.0 and high 0.5"),
        ("a=tag(log, interval(0, 1))", "must begin above 0, got 0.0"),
        ("a=tag(lgo, interval(1, 2))", "the tag lgo is unknown"),
        ("a=range(3, 3)", "the range is empty"),
    ],
)
def test_what_cannot_be_searched_over_is_named(override, reason):
    with pytest.raises(ConfigError, match=r"a=.* cannot be searched over: ") as caught:
        read([override], {})
    assert reason in str(caught.value)


def test_proposal_is_given_as_overrides():
    space = read(["seed=3", "++a.options.x=true,false", "b=[1,2],'x y'"], {"c": "range(1, 3)", "seed": "1,2"})
    assert space.fixed == ["seed=3"]  # the command line wins over params
    study = optuna.create_study()
    trial = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        params={"a.options.x": True, "b": "'x y'"},
        distributions={name: space.distributions[name] for name in ("a.options.x", "b")},
    )
    study.add_trial(trial)
    begun = optuna.trial.Trial(study, study.trials[0]._trial_id)
    proposed = space.propose(begun)  # what it has been given already stays
    assert {"seed=3", "++a.options.x=true", "b='x y'"} < set(proposed)
    assert {*proposed} & {"c=1", "c=2"}
