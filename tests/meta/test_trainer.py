"""The outer loop, on a problem whose every step is known in closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import neo
from meta import MAML, Evaluation, Step, Workers, evaluate
from meta.trainer import Log, State, Trainer, TrainingError
from neo.optim import adam, sgd
from tasks import Glyphs
from tests.meta.toy import Pull, TargetSampler


def trainer(learner: Pull | None = None, **settings: int) -> Trainer:
    defaults = {
        "seed": 2,
        "iterations": 10,
        "meta_batch": 4,
        "log_every": 3,
        "checkpoint_every": 4,
        "val_every": 0,
    }
    return Trainer(learner or Pull(), sgd(0.5), **{**defaults, **settings})


def flat(score: float) -> Evaluation:
    return Evaluation(torch.tensor([score, score], dtype=torch.float64), torch.zeros(2, dtype=torch.float64))


def test_steps_follow_the_closed_form_of_gradient_descent():
    sampler = TargetSampler()
    loop = trainer(iterations=5)
    theta = loop.start().params["theta"].data.clone()
    for state, _ in loop.steps(sampler, loop.start()):
        # θ ← θ − ½ (θ − mean target), with the tasks of iteration step − 1
        theta = theta - 0.5 * (theta - sampler.sample(state.step - 1, 4).query.y[..., 0].mean(0))
        torch.testing.assert_close(state.params["theta"].data, theta)
    assert state.step == 5


def test_captured_run_is_the_run(monkeypatch):
    recorded = []

    def capture(step):
        recorded.append(step)
        return neo_capture(step)

    neo_capture = neo.capture
    monkeypatch.setattr(neo, "capture", capture)
    runs = [trainer(iterations=3, capture=on).fit(TargetSampler(), trainer().start()) for on in (False, True)]
    assert torch.equal(*(run.params["theta"].data for run in runs))
    assert len(recorded) == 1


def test_fit_logs_every_multiple_and_the_last_step():
    lines: list[Log] = []
    trainer().fit(TargetSampler(), trainer().start(), log=lines.append)
    assert [line.step for line in lines] == [3, 6, 9, 10]
    assert lines[0].loss != lines[1].loss
    assert set(lines[0].metrics()) == {"train/loss", "train/accuracy"}


def test_fit_keeps_a_checkpoint_at_every_multiple_and_at_the_end():
    kept: list[int] = []
    loop = trainer()
    loop.fit(TargetSampler(), loop.start(), checkpoint=lambda state, validation: kept.append(state.step))
    assert kept == [4, 8, 10]


def test_fit_logs_the_loss_before_the_update_of_that_step():
    sampler, lines = TargetSampler(), []
    loop = trainer(iterations=1)
    loop.fit(sampler, loop.start(), log=lines.append)
    targets = sampler.sample(0, 4).query.y[..., 0]
    assert lines[0].loss == pytest.approx(float(0.5 * ((2 - targets) ** 2).sum(1).mean()))


@pytest.mark.parametrize(
    ("val_every", "steps"), [(0, []), (3, [3, 6, 9, 10]), (4, [6, 9, 10]), (5, [6, 10]), (100, [10])]
)
def test_fit_validates_with_the_first_log_after_each_multiple(val_every, steps):
    lines: list[Log] = []
    loop = trainer(val_every=val_every)
    loop.fit(TargetSampler(), loop.start(), validate=lambda state: flat(0.5), log=lines.append)
    validated = [line for line in lines if line.validation is not None]
    assert [line.step for line in validated] == steps
    assert all(line.metrics()["val/accuracy"] == 0.5 for line in validated)


def test_fit_hands_validation_to_the_checkpoint_of_its_step():
    seen: dict[int, Evaluation | None] = {}
    loop = trainer(val_every=5)
    loop.fit(
        TargetSampler(),
        loop.start(),
        validate=lambda state: flat(float(state.params["theta"].data[0])),
        checkpoint=lambda state, validation: seen.update({state.step: validation}),
    )
    assert {step for step, validation in seen.items() if validation} == {6, 10}
    assert set(seen) == {4, 6, 8, 10}


@pytest.mark.parametrize("optimizer", [sgd(0.1), adam(0.1)])
def test_fit_from_a_middle_state_equals_the_uninterrupted_run(optimizer):
    def fit(state: State | None, iterations: int) -> State:
        loop = Trainer(Pull(), optimizer, iterations=iterations, meta_batch=2)
        return loop.fit(TargetSampler(), state or loop.start())

    whole, halves = fit(None, 8), fit(fit(None, 3), 8)
    assert halves.step == whole.step == 8
    assert torch.equal(halves.params["theta"].data, whole.params["theta"].data)


def test_fit_names_step_and_task_when_a_loss_is_nan():
    def spoil(step: Step, loss: torch.Tensor) -> torch.Tensor:
        return loss * torch.nan if (step.iteration, step.slot) == (4, 2) else loss

    lines: list[Log] = []
    loop = trainer(Pull(spoil))
    with pytest.raises(
        TrainingError, match=r"step 5: the query loss of task 2 \(iteration 4, slot 2\) is nan.*inner_lr"
    ):
        loop.fit(TargetSampler(), loop.start(), log=lines.append)
    assert [line.step for line in lines] == [3]


def test_fit_names_the_parameter_when_a_gradient_is_infinite():
    class Exploding(Pull):
        def task_gradient(self, params, task, step):
            seen = super().task_gradient(params, task, step)
            return replace(seen, gradient={"theta": neo.LiteTensor(seen.gradient["theta"].data / 0)})

    loop = trainer(Exploding())
    with pytest.raises(TrainingError, match="step 1: the meta-gradient of 'theta'"):
        loop.fit(TargetSampler(), loop.start())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", 0),
        ("meta_batch", 0),
        ("log_every", 0),
        ("checkpoint_every", -1),
        ("val_every", -1),
        ("keep", 0),
    ],
)
def test_trainer_refuses_counts_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name}={value} is too small"):
        trainer(**{name: value})


def test_trainer_refuses_a_count_that_is_no_integer():
    with pytest.raises(ValueError, match=r"meta_batch=2\.5 must be an integer"):
        trainer(meta_batch=2.5)


def test_random_model_draws_by_step_and_slot_on_any_number_of_workers():
    sampler = Glyphs(alphabets=4).sampler("train", ways=5, shots=1, queries=2, seed=0)
    model = neo.nn.Sequential(
        [("flat", neo.nn.Flatten()), ("drop", neo.nn.Dropout(0.5)), ("head", neo.nn.Linear(784, 5))]
    )

    def trained(workers, seed=0, validates=False, start=None):
        learner = MAML(model, inner_lr=0.1)
        trainer = Trainer(
            learner,
            neo.optim.sgd(0.1),
            seed=seed,
            iterations=3,
            meta_batch=3,
            log_every=1,
            val_every=1,
            checkpoint_every=1,
            workers=Workers(workers),
        )
        states = []
        trainer.fit(
            sampler,
            start or trainer.start()._replace(params=learner.init(0)),
            validate=(lambda state: evaluate(learner, state.params, sampler, 2)) if validates else None,
            checkpoint=lambda state, _: states.append(state),
        )
        return states

    def weights(state):
        return state.params["head.weight"].data

    one = trained(1)
    for other in (trained(2), trained(None), trained(1, validates=True), trained(2, start=one[0])):
        assert torch.equal(weights(other[-1]), weights(one[-1]))
    assert not torch.equal(weights(trained(1, seed=1)[-1]), weights(one[-1]))
