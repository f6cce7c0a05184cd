"""NaN anywhere ends a run at once, and the sentence says where it began: step, task, inner step, parameter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import neo
from meta import Step, checkpoint
from meta.checkpoint import Checkpoints
from meta.divergence import TrainingError, expect_finite_results, expect_finite_state
from meta.experiment import Experiment
from meta.resume import resumed_config
from meta.trainer import Trainer
from neo.optim import Optimizer
from tests.meta.runs import train
from tests.meta.test_run import tiny
from tests.meta.toy import Pull, TargetSampler


class Spoiler:
    """Turns one entry of a tensor into NaN, in one of the calls."""

    def __init__(self, call: int) -> None:
        self.call, self.calls = call, 0

    def __call__(self, tree: dict) -> dict:
        self.calls += 1
        if self.calls != self.call:
            return tree
        data = tree["theta"].data.clone()
        data.view(-1)[0] = torch.nan
        return {**tree, "theta": neo.LiteTensor(data)}


def test_inner_loop_names_task_inner_step_and_parameter(tmp_path):
    config = tiny("algorithm.inner_steps=4", "algorithm.inner_lr=1e38", "trainer.iterations=2")
    with pytest.raises(
        TrainingError,
        match=r"step 1: the query loss of task \d+ \(iteration 0, slot \d+\) is \S+, expected a finite number"
        r": after inner step [1234] the parameter '\S+' has entries that are NaN or infinite; try a smaller",
    ):
        train(config, tmp_path)


def test_inner_step_named_is_the_first_that_is_not_finite():
    config = tiny("algorithm.inner_steps=4", "algorithm.inner_lr=1e38")
    experiment = Experiment(config)
    params, sampler = experiment.learner.init(0), experiment.sampler("train")
    task = sampler.sample(0, 1)[0]
    finite = [
        all(
            bool(torch.isfinite(leaf.data).all())
            for leaf in experiment.learner.adapt(params, task.support, Step(inner_steps=k)).params.values()
        )
        for k in range(5)
    ]
    assert finite[0]
    assert not finite[4]
    loop = experiment.trainer
    with pytest.raises(TrainingError, match=f"after inner step {finite.index(False)} the parameter"):
        loop.fit(sampler, loop.start())


def test_update_that_breaks_a_parameter_is_named_before_it_is_kept():
    spoil = Spoiler(call=4)
    broken = Optimizer(lambda params: None, lambda params, grads, state: (spoil(params), state))
    loop = Trainer(Pull(), broken, iterations=9, meta_batch=2, log_every=9, checkpoint_every=2, val_every=0)
    kept: list[int] = []
    with pytest.raises(
        TrainingError, match="step 4: after its update the meta-parameter 'theta' has entries that"
    ):
        loop.fit(TargetSampler(), loop.start(), checkpoint=lambda state, validation: kept.append(state.step))
    assert kept == [2]


def test_parameter_broken_between_checkpoints_is_blamed_in_place_of_a_task():
    spoil = Spoiler(call=3)
    broken = Optimizer(lambda params: None, lambda params, grads, state: (spoil(params), state))
    loop = Trainer(Pull(), broken, iterations=9, meta_batch=2, log_every=9, checkpoint_every=9, val_every=0)
    with pytest.raises(
        TrainingError, match=r"step 4: the meta-parameter 'theta' has entries that .* since the update"
    ):
        loop.fit(TargetSampler(), loop.start())


def test_optimizer_state_that_is_infinite_is_named():
    state = {"square": {"theta": neo.LiteTensor([1.0, float("inf")])}, "steps": 3}
    with pytest.raises(
        TrainingError, match=r"step 3: after its update the optimiser's state 'square\.theta' has"
    ):
        expect_finite_state(3, {"theta": neo.LiteTensor([1.0])}, state, ())


def test_gradient_of_one_task_is_named_with_that_task():
    class OneBad(Pull):
        def task_gradient(self, params, task, step):
            seen = super().task_gradient(params, task, step)
            if step.slot != 1:
                return seen
            return replace(seen, gradient={"theta": neo.LiteTensor(seen.gradient["theta"].data * torch.nan)})

    loop = Trainer(OneBad(), neo.optim.sgd(0.1), iterations=2, meta_batch=3)
    with pytest.raises(
        TrainingError,
        match=r"step 1: the meta-gradient of 'theta' of task 1 \(iteration 0, slot 1\) has entries",
    ):
        loop.fit(TargetSampler(), loop.start())


def test_held_out_task_that_breaks_down_is_named_and_no_score_is_given():
    experiment = Experiment(tiny("algorithm.inner_lr=1e38", "evaluation.inner_steps=4"))
    state = experiment.trainer.start()
    with pytest.raises(
        TrainingError,
        match=r"val task \d+ \(iteration 0, slot \d+\): its query loss is \S+, .*after inner step \d the parameter",
    ):
        experiment.evaluate(state, experiment.sampler("val"), 3)


def test_finite_results_pass():
    experiment = Experiment(tiny())
    state, sampler = experiment.trainer.start(), experiment.sampler("val")
    results = experiment.evaluate(state, sampler, 2)
    expect_finite_results("val", results, experiment.trained(state), sampler, None)


def test_last_good_checkpoint_is_kept_and_can_be_resumed(tmp_path, monkeypatch):
    """The run diverges at step 4 of an optimiser that breaks there; a repaired one goes on from step 2."""
    whole, other = tmp_path / "whole", tmp_path / "other"
    train(tiny("trainer.iterations=5"), whole)
    sound = Experiment.trainer.func

    def breaking(self: Experiment) -> Trainer:
        loop, calls = sound(self), []

        def step(params, grads, state):
            calls.append(1)
            broken = {**grads, "head.bias": grads["head.bias"] * float("nan")} if len(calls) == 4 else grads
            return optimizer.step(params, broken, state)

        optimizer, loop.optimizer = loop.optimizer, Optimizer(loop.optimizer.init, step)
        return loop

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "trainer", property(breaking))
        with pytest.raises(TrainingError, match=r"step 4: after its update the meta-parameter 'head\.bias'"):
            train(tiny("trainer.iterations=5"), other)
    assert Checkpoints(other / "checkpoints").last().name == "step-00000002.safetensors"
    train(resumed_config(other, {}), other, resume=True)
    assert_same_parameters(whole, other)


def assert_same_parameters(one: Path, other: Path) -> None:
    states = []
    for folder in (one, other):
        like = Experiment(tiny()).trainer.start()
        states.append(checkpoint.load(Checkpoints(folder / "checkpoints").last(), like))
    for name, leaf in states[0].params.items():
        assert torch.equal(leaf.data, states[1].params[name].data), name
