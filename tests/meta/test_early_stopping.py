"""trainer.patience: a run whose validation gets no better ends, and says why."""

from __future__ import annotations

import json

import pytest

from meta.early_stopping import Patience
from meta.experiment import Experiment
from meta.interruption import Stopped
from meta.problems import ACCURACY, Metric
from meta.resume import resumed_config
from meta.run import Run
from tests.meta.test_run import numbers, tiny

# Nothing is learned, so that the first validation stays the best.
IDLE = ("optimizer=sgd", "optimizer.lr=0", "trainer.iterations=12", "trainer.val_every=2")


def test_counts_validations_since_the_best():
    patience = Patience(2, ACCURACY)
    scores = [(2, 0.5), (4, 0.4), (6, 0.6), (8, 0.6), (10, None)]
    assert [patience.told(*one) is None for one in scores] == [True, True, True, True, False]
    assert "the best accuracy, 60.00% after step 6" in patience.told(12, 0.1)
    error = Patience(1, Metric("error", "error", higher_is_better=False))
    assert error.told(2, 3.0) is error.told(4, 2.0) is None
    assert error.told(6, 2.5).startswith("stopped at step 6 by trainer.patience=1")


def stopped(folder, *overrides, **options):
    with pytest.raises(Stopped) as error:
        Run(tiny(*IDLE, *overrides), folder, **options).train()
    return str(error.value)


@pytest.mark.slow
def test_a_run_stops_where_it_would_without_an_interruption_and_can_be_given_more(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    reason = stopped(whole, "trainer.patience=3")
    assert reason.startswith("stopped at step 8 by trainer.patience=3: as many validations in a row")
    assert json.loads((whole / "stopped.json").read_text()) == {"reason": reason, "iterations": 8}
    assert not (whole / "result.json").exists()

    stopped(halves, "trainer.patience=3", validated=lambda step, score: "enough" if step == 6 else None)
    with pytest.raises(Stopped, match="stopped at step 8"):
        Run(resumed_config(halves, {}), halves, resume=True).train()
    assert numbers(halves) == numbers(whole)

    more = resumed_config(halves, {"trainer.patience": 0})
    assert Run(more, halves, resume=True).train()["iterations"] == 12
    assert not (halves / "stopped.json").exists()


def test_patience_without_validations_is_refused():
    with pytest.raises(ValueError, match=r"patience=2 counts validations, and val_every=0 leaves none"):
        _ = Experiment(tiny("trainer.patience=2", "trainer.val_every=0")).trainer
