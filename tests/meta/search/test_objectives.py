"""What a search looks for, by the direction of what it is, and never the test."""

from __future__ import annotations

import pytest

from meta.cli.value_types import ConfigError
from meta.problems import ACCURACY, MSE
from meta.search.objectives import directions, names, values
from tests.meta.report.folders import write_run


def test_directions_are_those_of_what_they_are():
    wanted = ["score", "seconds", "val/loss"]
    assert directions(wanted, None, ACCURACY) == ["maximize", "minimize", "minimize"]
    assert directions(["score"], None, MSE) == ["minimize"]
    assert directions(["train/entropy"], ["maximize"], ACCURACY) == ["maximize"]
    assert names(wanted, MSE) == ["mse", "seconds", "val/loss"]


@pytest.mark.parametrize(
    ("wanted", "given", "sentence"),
    [
        ([], None, "hydra.sweeper.objectives is empty"),
        (["test/accuracy"], None, "a search never looks at the test tasks"),
        (["time"], None, "unknown objective 'time'"),
        (["train/entropy"], None, "is more 'train/entropy' better or worse?"),
        (["score"], ["minimize"], "would minimize the validation accuracy, of which more is better"),
        (["score", "seconds"], ["maximize"], "must be minimize or maximize for each of the 2 objectives"),
        (["seconds"], ["down"], "must be minimize or maximize for each of the 1 objectives"),
    ],
)
def test_objective_that_cannot_be_is_refused(wanted, given, sentence):
    with pytest.raises(ConfigError) as caught:
        directions(wanted, given, ACCURACY)
    assert sentence in str(caught.value)


def test_values_are_the_last_ones_of_the_run(tmp_path):
    run = write_run(tmp_path / "0", val=0.7)
    score, seconds, loss = values(
        run, ["score", "seconds", "train/loss"], ["maximize", "minimize", "minimize"]
    )
    assert score == pytest.approx(0.7)
    assert seconds > 0
    assert loss == pytest.approx(1 / 6)


def test_run_without_the_number_or_of_another_metric_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no finite val/accuracy; it has train/accuracy, train/loss"):
        values(write_run(tmp_path / "0", val=None), ["score"], ["maximize"])
    with pytest.raises(ValueError, match=r"was scored by mse, whose direction is not the study's"):
        values(write_run(tmp_path / "1", metric=MSE), ["score"], ["maximize"])
