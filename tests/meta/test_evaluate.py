"""Evaluation: step by step in one pass, on tasks that can be told again, with the queries normalised as asked."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import neo
from meta import ANIL, MAML, MetaLearner, MetaSGD, Predictor, Reptile, Step, evaluate
from meta.batch_norm import policy
from meta.evaluate import half_width
from tasks import Glyphs

WAYS = 3
ALGORITHMS = {
    "maml": MAML,
    "fomaml": lambda model, **options: MAML(model, first_order=True, **options),
    "anil": ANIL,
    "meta-sgd": MetaSGD,
    "reptile": Reptile,
}


@pytest.fixture(scope="module")
def glyphs() -> Glyphs:
    return Glyphs(alphabets=4, characters=6)


@pytest.fixture(scope="module")
def sampler(glyphs):
    return glyphs.sampler("test", ways=WAYS, shots=2, queries=4, seed=0)


def predictions(name, model, params, task, x):
    """By a batch-norm policy, of a model with its parameters."""
    return policy(name)(Predictor.of_model(model, [params]), task.support)(x)


def conv4(**options) -> neo.nn.Conv4:
    return neo.nn.Conv4(WAYS, hidden=4, **options)


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_record_has_what_evaluating_with_each_number_of_steps_has(sampler, algorithm):
    learner = algorithm(conv4(), inner_steps=2)
    params = learner.init(seed=0)
    record = evaluate(learner, params, sampler, 5, inner_steps=3, batch=2, record=True).record
    assert record.scores.shape == record.losses.shape == (5, 4)
    for steps in range(4):
        alone = evaluate(learner, params, sampler, 5, inner_steps=steps)
        assert torch.equal(record.scores[:, steps], alone.scores)
        assert torch.equal(record.losses[:, steps], alone.losses)
    assert not torch.equal(record.losses[:, 0], record.losses[:, 3])


def test_trajectory_takes_each_inner_step_once(sampler):
    calls = []

    class Counting(MAML):
        def support_loss(self, params, support):
            calls.append(1)
            return super().support_loss(params, support)

    learner = Counting(conv4())
    support = sampler.sample(0, 1)[0].support
    found = learner.adapt(learner.init(0), support, Step(inner_steps=4))
    assert len(found.trajectory) == 5
    assert found.trajectory[-1].params is found.params
    assert len(calls) == 4


def test_predictor_of_any_kind_is_evaluated_and_recorded_once_where_it_has_no_steps(sampler):
    class Nearest(MetaLearner):
        """Nearest class mean of the pixels: no parameters, no model, no inner steps."""

        def init(self, seed, device="cpu"):
            return {"unused": neo.LiteTensor([0.0])}

        def adapt(self, params, support, step):
            means = torch.stack([support.x[support.y == label].mean(0).flatten() for label in range(WAYS)])
            return lambda x: -torch.cdist(x.flatten(1), means)

        def task_gradient(self, params, task, step):
            raise NotImplementedError

    learner = Nearest()
    found = evaluate(learner, learner.init(0), sampler, 5, inner_steps=3, record=True)
    assert found.mean > 1.2 / WAYS
    assert found.record.scores.shape == (5, 1)
    assert torch.equal(found.record.scores[:, 0], found.scores)


def test_checksum_is_of_the_task_and_not_of_where_it_was_drawn(glyphs, sampler):
    tasks = list(sampler.sample(0, 6))
    checksums = [task.checksum() for task in tasks]
    assert len(set(checksums)) == 6
    assert checksums[3] == sampler.sample(0, [3])[0].checksum()
    other = glyphs.sampler("test", ways=WAYS, shots=2, queries=4, seed=1)
    assert not {*checksums} & {task.checksum() for task in other.sample(0, 6)}
    swapped = tasks[0].query.x.clone()
    swapped[0, 0, 14, 14] = 1 - swapped[0, 0, 14, 14]
    assert (
        type(tasks[0])(tasks[0].support, type(tasks[0].query)(swapped, tasks[0].query.y)).checksum()
        != checksums[0]
    )


def test_checksum_allows_for_another_device_s_rounding(sampler):
    task = sampler.sample(0, 1)[0]
    nearly = task.query.x * (1 + 2e-7)
    assert not torch.equal(nearly, task.query.x)
    assert type(task)(task.support, type(task.query)(nearly, task.query.y)).checksum() == task.checksum()


@pytest.mark.parametrize("options", [{}, {"pool": "max"}, {"fused": False}, {"scale": False}], ids=str)
@pytest.mark.parametrize("name", ["single", "support"])
def test_query_s_prediction_does_not_depend_on_the_other_queries(sampler, name, options):
    model, task = conv4(**options), sampler.sample(0, 1)[0]
    params = model.init(seed=2)
    x = task.query.x
    both = predictions(name, model, params, task, x[:2])
    torch.testing.assert_close(both[:1], predictions(name, model, params, task, x[:1]))
    torch.testing.assert_close(both, predictions(name, model, params, task, x)[:2])
    together = predictions("batch", model, params, task, x)
    assert (together[:2] - predictions("batch", model, params, task, x[:2])).abs().max() > 1e-3


def test_single_is_the_last_prediction_of_the_support_set_with_the_query(sampler):
    model, task = conv4(), sampler.sample(0, 1)[0]
    params = model.init(seed=2)
    expected = model(params, torch.cat([task.support.x, task.query.x[3:4]])).data[-1]
    assert torch.equal(predictions("single", model, params, task, task.query.x)[3], expected)


def test_support_equals_batch_norms_that_are_given_the_support_set_s_statistics(sampler):
    """Against torch alone, block by block in float64."""
    model, task = conv4(), sampler.sample(0, 1)[0]
    params = model.init(seed=2)
    w = {name: leaf.data.double() for name, leaf in params.items()}
    ahead, x = task.support.x.double(), task.query.x.double()
    for i in range(4):
        conv = (w[f"conv{i}.weight"], w[f"conv{i}.bias"], 2, 1)
        ahead, x = F.conv2d(ahead, *conv), F.conv2d(x, *conv)
        mean, variance = ahead.mean((0, 2, 3)), ahead.var((0, 2, 3), unbiased=False)
        norm = (mean, variance, w[f"norm{i}.weight"], w[f"norm{i}.bias"], False, 0.0, 1e-5)
        ahead, x = F.relu(F.batch_norm(ahead, *norm)), F.relu(F.batch_norm(x, *norm))
    expected = x.mean((2, 3)) @ w["head.weight"].T + w["head.bias"]
    found = predictions("support", model, params, task, task.query.x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_policies_agree_where_there_is_no_batch_norm(sampler):
    model, task = neo.nn.MLP(784, 8, WAYS), sampler.sample(0, 1)[0]
    params = model.init(seed=2)
    together, *others = (
        predictions(name, model, params, task, task.query.x) for name in ("batch", "single", "support")
    )
    for other in others:
        torch.testing.assert_close(other, together)


def test_support_policy_refuses_a_model_whose_queries_meet_otherwise_than_in_batch_norm(sampler):
    class Centred(neo.nn.Module):
        def __call__(self, params, x):
            x = x.sum((1, 2))[:, 12 : 12 + WAYS]
            return x - x.mean(0)

    task = sampler.sample(0, 1)[0]
    with pytest.raises(
        ValueError, match=r"batch_norm='support' .* other means than F\.batch_norm.* 'single'"
    ):
        predictions("support", Centred(), {}, task, task.query.x)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tasks": 0}, "tasks must be an integer of 1 or more, got 0"),
        ({"batch": "many"}, "batch must be an integer of 1 or more, got 'many'"),
        ({"inner_steps": -1}, "inner_steps must be an integer of 0 or more, got -1"),
        ({"batch_norm": "running"}, r"unknown evaluation\.batch_norm='running'"),
    ],
)
def test_settings_out_of_range_are_refused(sampler, settings, sentence):
    learner = MAML(conv4())
    with pytest.raises(ValueError, match=sentence):
        evaluate(learner, learner.init(0), sampler, **{"tasks": 2, **settings})


def test_interval_is_1_96_standard_errors():
    values = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    assert half_width(values) == pytest.approx(1.96 * math.sqrt(0.3) / math.sqrt(5))
    assert math.isnan(half_width(values[:1]))
