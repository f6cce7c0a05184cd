"""Finite results that are worth nothing are said to be so: an exploded loss, a score that guessing reaches."""

from __future__ import annotations

import pytest

import meta
import neo
from meta.cli.configs import composed
from meta.plausibility import EXPLODED, LossWatch, chance_warning
from tests.meta.runs import train
from tests.meta.test_run import TINY, tiny

ERROR = {"metric": "mse", "test/ci95": 0.1, "test/chance": 4.25}
SCORE = {"metric": "accuracy", "test/ci95": 0.02, "test/chance": 0.2}


@pytest.mark.parametrize(
    ("result", "warned"),
    [
        ({**ERROR, "test/mse": 4.73}, True),
        ({**ERROR, "test/mse": 4.16}, True),  # chance lies in the interval
        ({**ERROR, "test/mse": 4.14}, False),
        ({**ERROR, "test/mse": None}, True),  # not a finite number
        ({**ERROR, "test/mse": 9.0, "test/chance": None}, False),  # nobody knows what guessing reaches
        ({**SCORE, "test/accuracy": 0.21}, True),
        ({**SCORE, "test/accuracy": 0.23}, False),
        ({**SCORE, "test/accuracy": 0.2 + 1e-8, "test/ci95": 0.0}, True),  # always the same class
        ({**SCORE, "test/accuracy": 0.21, "test/ci95": None}, False),  # one task has no interval
    ],
)
def test_results_no_better_than_chance_are_said(result, warned):
    warning = chance_warning(result)
    assert (warning is not None) == warned
    if warned:
        assert "no better than guessing" in warning


def test_an_exploded_loss_is_told_once():
    watch = LossWatch(2.0)
    assert watch.warning(1, 2.0 * EXPLODED) is None
    assert "step 2: the training loss is 3e+06, and was about 2 before" in str(watch.warning(2, 3e6))
    assert watch.warning(3, 1e18) is None


def test_losses_below_zero_and_of_zero_are_no_explosion():
    assert LossWatch(-2.0).warning(1, -1.5) is None
    assert LossWatch(-2.0).warning(1, 3e6) is not None
    assert LossWatch(0.0).warning(1, 0.5) is None


def test_a_run_that_explodes_says_so_and_ends_with_what_it_has(tmp_path, caplog):
    result = train(tiny("optimizer.lr=1e9"), tmp_path)
    assert "the training loss is" in caplog.text
    assert chance_warning(result) is not None


def test_a_sinusoid_takes_its_own_inner_rate_in_every_algorithm():
    for algorithm in (
        "maml",
        "fomaml",
        "anil",
        "meta_sgd",
        "reptile",
        "es_maml",
        "maml_plus_plus",
        "imaml",
        "boil",
    ):
        config = composed("train", ["task=sinusoid", f"algorithm={algorithm}"])
        assert config.algorithm.inner_lr == 0.01, algorithm
        assert composed("train", [f"algorithm={algorithm}"]).algorithm.inner_lr in (0.1, 0.4, 0.5), algorithm
    assert composed("train", ["task=sinusoid", "algorithm.inner_lr=0.5"]).algorithm.inner_lr == 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=mlp"], r"the model neo.nn.MLP .* cannot take the inputs of these tasks, \(6, 1, 28, 28\)"),
        (["model.channels=3"], r"model.channels=3.* cannot take the inputs of these tasks, \(6, 1, 28, 28\)"),
        (
            ["model.ways=2"],
            r"predictions \(6, 2\) .*do not fit the targets of these tasks, \(6,\) torch.int64",
        ),
        (
            ["model.ways=4"],
            r"model\.ways=4 .*has 4 outputs, and the tasks have 3 classes: set its number of outputs to 3",
        ),
        (
            ["model=resnet18", "model.options.num_classes=4"],
            r"has 4 outputs, and the tasks have 3 classes: .* model\.options\.NAME='\$\{task\.ways\}'",
        ),
        (["algorithm.inner_lr=-1"], "MAML: inner_lr must be a finite number of 0 or more, got -1"),
    ],
)
def test_a_model_that_does_not_fit_the_task_is_named_before_training(overrides, message, tmp_path):
    chosen = [one for one in TINY if not (overrides[0].startswith("model=") and one.startswith("model."))]
    config = composed("train", [*chosen, *overrides])
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("algorithm", "asked"),
    [
        ("distillation", "it learns from examples with labels, .* got Arms"),
        ("learned_loss", "it needs .x of Arms"),
    ],
)
def test_an_algorithm_that_the_tasks_are_not_for_is_named_before_training(algorithm, asked, tmp_path):
    config = composed("train", ["task=bandit", f"algorithm={algorithm}", "trainer.val_tasks=2", "device=cpu"])
    with pytest.raises(ValueError, match=rf"does not go with the tasks of tasks.Bandit: {asked}"):
        train(config, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_learner_that_calls_its_model_with_more_than_an_input_fails_in_its_own_words(tmp_path, monkeypatch):
    """Called with an input alone the model would fail too, but otherwise, and that would explain nothing."""

    def with_context(self, params, x, context):
        return self.layers[0][1](params, x) + context

    def failing(self, params, support, step):
        raise KeyError("context of the task")

    monkeypatch.setattr(neo.nn.Conv4, "__call__", with_context)
    monkeypatch.setattr(meta.MAML, "adapt", failing)
    with pytest.raises(KeyError, match="context of the task"):
        train(tiny(), tmp_path)
