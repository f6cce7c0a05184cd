"""X-rays while a run trains: in its log, and nowhere in its numbers."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

import meta
import neo
from meta import MAML, Step
from meta.checkpoint import Checkpoints
from meta.metrics_file import read_metrics
from meta.resume import resumed_config
from meta.trainer import Log
from meta.xray import tracked_metrics, xray
from meta.xray_run import xray_run
from tests.meta.quadratic import Tasks
from tests.meta.runs import train
from tests.meta.test_estimators import image_tasks
from tests.meta.test_run import numbers, tensors, tiny
from tests.meta.xray.test_split import doubled

SETTINGS = (
    "algorithm=maml_plus_plus", "optimizer=adam", "algorithm.inner_steps=2", "algorithm.running_statistics=true"
)  # fmt: skip


def xrays(folder):
    return {
        line["step"]: {key: value for key, value in line.items() if key.startswith("xray/")}
        for line in read_metrics(folder / "metrics.jsonl")
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run without and with X-rays, with a state that is carried."""
    folders = [tmp_path_factory.mktemp("without"), tmp_path_factory.mktemp("with")]
    train(tiny(*SETTINGS), folders[0])
    train(tiny(*SETTINGS, "trainer.xray_every=2", "trainer.xray_tasks=3"), folders[1])
    return folders


def test_a_run_has_the_same_bits_with_and_without(runs):
    without, with_xrays = runs
    assert [
        {key: value for key, value in line.items() if not key.startswith("xray/")}
        for line in numbers(with_xrays)
    ] == numbers(without)
    for step in (2, 4):
        one, other = (load_file(Checkpoints(folder / "checkpoints").path(step)) for folder in runs)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_xrays_are_logged_where_they_are_due(runs):
    found = xrays(runs[1])
    assert [step for step, keys in found.items() if keys] == [2, 4]
    assert {
        "xray/first_order_cosine",
        "xray/curvature_share",
        "xray/curvature_share/params.conv0.weight",
    } <= {*found[2]}
    assert -1 <= found[4]["xray/first_order_cosine"] < 1
    assert not any(xrays(runs[0]).values())


def test_the_command_finds_the_numbers_of_the_log(runs):
    result = xray_run(runs[1], tasks=3, part="train")
    logged = xrays(runs[1])[4]
    assert result["whole"]["first_order_cosine"] == pytest.approx(logged["xray/first_order_cosine"], rel=1e-5)
    assert result["whole"]["curvature_share"] == pytest.approx(logged["xray/curvature_share"], rel=1e-5)


def test_a_resumed_run_logs_the_same_and_may_ask_for_others(tmp_path, runs):
    train(tiny(*SETTINGS, "trainer.iterations=2"), tmp_path)
    config = resumed_config(
        tmp_path, {"trainer.iterations": 4, "trainer.xray_every": 2, "trainer.xray_tasks": 3}
    )
    train(config, tmp_path, resume=True)
    assert xrays(tmp_path)[4] == xrays(runs[1])[4]
    assert all(torch.equal(tensors(tmp_path)[name], value) for name, value in tensors(runs[0]).items())


def test_trainer_in_python_takes_them_of_the_next_tasks():
    tasks = Tasks()

    class Sampler:
        def sample(self, iteration, slots):
            return Tasks(seed=iteration, tasks=slots).batch()

    learner = MAML(tasks.model, inner_lr=0.05, inner_steps=2, problem=tasks.problem)
    logs: list[Log] = []
    trainer = meta.Trainer(
        learner, neo.optim.sgd(0.1), iterations=3, meta_batch=2, log_every=1, xray_every=3, xray_tasks=2, seed=4
    )  # fmt: skip
    end = trainer.fit(Sampler(), trainer.start(), log=logs.append)
    assert [bool(log.xray) for log in logs] == [False, False, True]
    met = [(Step(3, slot), task) for slot, task in enumerate(Sampler().sample(3, 2))]
    assert logs[-1].xray == pytest.approx(tracked_metrics(xray(learner, end.params, met)))
    assert logs[-1].metrics()["xray/curvature_share"] == logs[-1].xray["curvature_share"]


def test_random_draws_of_training_are_not_moved():
    """Dropout draws from seeds of its own in each task."""

    class Sampler:
        def sample(self, iteration, slots):
            return image_tasks()

    layers = [("flat", neo.nn.Flatten()), ("drop", neo.nn.Dropout(0.5)), ("head", neo.nn.Linear(144, 3))]
    learner = MAML(neo.nn.Sequential(layers), inner_steps=2)
    ends = []
    for every in (0, 1):
        trainer = meta.Trainer(
            learner, neo.optim.sgd(0.1), iterations=3, meta_batch=2, log_every=1, xray_every=every, xray_tasks=2
        )  # fmt: skip
        torch.manual_seed(1)
        end = trainer.fit(Sampler(), double(trainer.start()))
        ends.append((end.params["head.weight"].data, torch.rand(3)))
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def double(state):
    return state._replace(params=doubled(state.params))


def test_training_goes_on_where_the_exact_gradient_is_not_finite():
    tasks = Tasks()
    learner = MAML(tasks.model, inner_lr=1e160, inner_steps=2, problem=tasks.problem)
    found = meta.xray.track(learner, tasks.params(), tasks.batch(), iteration=0, seed=0, state=())
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("learner", [meta.ProtoNet, meta.Reptile, meta.ESMAML])
def test_learner_without_a_loop_is_refused_before_training(learner):
    model = neo.nn.Conv4(ways=3, hidden=4, size=12)
    with pytest.raises(
        ValueError, match=r"xray_every=5: \w+ has no meta-gradient.*Or set trainer.xray_every=0"
    ):
        meta.Trainer(learner(model), neo.optim.sgd(0.1), iterations=1, meta_batch=1, xray_every=5)
    meta.Trainer(learner(model), neo.optim.sgd(0.1), iterations=1, meta_batch=1)


@pytest.mark.parametrize(("name", "value"), [("xray_every", -1), ("xray_tasks", 0)])
def test_numbers_out_of_range_are_refused(name, value):
    learner = MAML(neo.nn.Conv4(ways=3, hidden=4, size=12))
    with pytest.raises(ValueError, match=f"{name}={value} is too small"):
        meta.Trainer(learner, neo.optim.sgd(0.1), iterations=1, meta_batch=1, **{name: value})
