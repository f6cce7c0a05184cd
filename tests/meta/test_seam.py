"""What an algorithm may ask of the loop around it, and what it must give: named where it does not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_module

import meta
import neo
from meta import (
    MAML,
    MetaLearner,
    Predictor,
    State,
    Trainer,
    Workers,
    evaluate,
    meta_gradient,
)
from meta.checkpoint import CheckpointError
from meta.experiment import Experiment
from meta.learner import seed_of
from meta.parallel import Batched
from meta.resume import resumed_config
from neo.optim import sgd
from tests.meta.quadratic import SIZE, Tasks, flat
from tests.meta.ranks import run_ranks, values
from tests.meta.runs import train
from tests.meta.test_run import TINY, assert_same_run, tiny
from tests.meta.toy import Pull, TargetSampler


class Curious(Pull):
    """Uses all that a Step has: iteration, slot, seed, training, state; carries a mean, a count and a flag."""

    def init_state(self, params):
        return {"mean": torch.zeros(3), "count": 0, "rate": 1.0, "codes": torch.tensor([3, 1])}

    def task_gradient(self, params, task, step):
        assert step.training
        found = super().task_gradient(params, task, step)
        noise = torch.randn(3, generator=torch.Generator().manual_seed(step.seed))
        drawn = torch.randn(3)  # by the seed of the step as well
        gradient = {"theta": found.gradient["theta"] + 0.1 * noise + 0.1 * drawn + 0.01 * step.state["mean"]}
        carried = {
            "mean": 0.9 * step.state["mean"] + 0.1 * task.query.y[..., 0],
            "count": step.state["count"] + 1,
            "rate": step.state["rate"] * (0.9 + 0.01 * step.slot),
            "codes": step.state["codes"],
        }
        metrics = {"slot": step.slot, "iteration": step.iteration, "noise": noise.square().mean()}
        return replace(found, gradient=gradient, state=carried, metrics=metrics)


def fit(learner, iterations=4, start=None, **options):
    lines, loop = [], Trainer(learner, sgd(0.5), iterations=iterations, meta_batch=4, log_every=1, **options)
    return loop.fit(TargetSampler(), start or loop.start(), log=lines.append), lines


def test_state_is_the_mean_over_tasks_and_the_rest_is_theirs_in_common():
    state, _ = fit(Curious(), iterations=1)
    targets = TargetSampler().sample(0, 4).query.y[..., 0]
    torch.testing.assert_close(state.state["mean"], 0.1 * targets.mean(0))
    assert state.state["count"] == 1
    assert state.state["rate"] == pytest.approx(0.915)
    assert state.state["codes"].tolist() == [3, 1]


def test_metrics_reach_the_log_as_means_over_the_meta_batch():
    _, lines = fit(Curious())
    numbers = lines[2].metrics()
    assert (numbers["train/slot"], numbers["train/iteration"]) == (1.5, 2)
    assert list(numbers)[:2] == ["train/loss", "train/accuracy"]


def same(one: State, other: State) -> bool:
    leaves = [torch.as_tensor(getattr(leaf, "data", leaf)) for leaf in neo.pytree.leaves(one)]
    others = [torch.as_tensor(getattr(leaf, "data", leaf)) for leaf in neo.pytree.leaves(other)]
    return all(torch.equal(a, b) for a, b in zip(leaves, others, strict=True))


def test_run_is_a_function_of_its_seed_however_it_is_cut_and_shared_out():
    whole, _ = fit(Curious())
    half, _ = fit(Curious(), iterations=2)
    torch.manual_seed(99)
    assert same(fit(Curious(), start=half)[0], whole)
    assert same(fit(Curious(), workers=Workers(2))[0], whole)
    assert not same(fit(Curious(), seed=1)[0], whole)


def job(ranks):
    return fit(Curious(), ranks=ranks)[0]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_carry_the_same_state_bit_for_bit(size):
    whole, _ = fit(Curious())
    assert all(same(found, whole) for found in values(run_ranks(size, job)))


def test_seed_of_a_step_is_a_function_of_run_iteration_and_slot():
    seeds = {seed_of(run, iteration, slot) for run in range(3) for iteration in range(5) for slot in range(7)}
    assert len(seeds) == 105
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)


class Wrong(Pull):
    def __init__(self, **changes):
        super().__init__()
        self.changes = changes

    def init_state(self, params):
        return {"mean": torch.zeros(3)}

    def task_gradient(self, params, task, step):
        found = replace(super().task_gradient(params, task, step), state=step.state)
        changes = {name: value(step) if callable(value) else value for name, value in self.changes.items()}
        return replace(found, **changes)


def zeros(*shape, **options):
    return neo.LiteTensor(torch.zeros(*shape, **options))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"gradient": {}}, TypeError, "the gradient must have the structure of the meta-parameters"),
        (
            {"gradient": {"theta": zeros(2)}},
            ValueError,
            r"gradient of 'theta' must be \(3,\) torch.float32, .*got \(2,\)",
        ),
        ({"gradient": {"theta": zeros(3, dtype=torch.float64)}}, ValueError, r"got \(3,\) torch.float64"),
        ({"gradient": {"theta": 0.0}}, ValueError, "got float"),
        (
            {"loss": torch.zeros(2)},
            TypeError,
            r"loss must be a number or a tensor without dims.*got shape \(2,\)",
        ),
        ({"score": "high"}, TypeError, "score must be a number.*got 'high'"),
        ({"state": {"average": torch.zeros(3)}}, TypeError, "another structure than init_state"),
        (
            {"state": {"mean": torch.zeros(2)}},
            ValueError,
            r"leaf mean must be \(3,\) torch.float32.*got \(2,\)",
        ),
        ({"state": {"mean": 0.0}}, TypeError, r"leaf mean must be a tensor of shape \(3,\).*got float"),
        (
            {"state": lambda step: None if step.slot else step.state},
            ValueError,
            "state is None for some tasks of a meta-batch and not for others",
        ),
        ({"metrics": [1.0]}, TypeError, "metrics must be a dict of scalars by name, got list"),
        ({"metrics": {"loss": 1.0}}, ValueError, "a metric cannot be called 'loss'"),
        ({"metrics": {"accuracy": 1.0}}, ValueError, "a metric cannot be called 'accuracy'"),
        ({"metrics": {"norm": torch.ones(2)}}, TypeError, r"metrics\['norm'\] must be a number"),
        (
            {"metrics": lambda step: {f"of{step.slot}": 1.0}},
            ValueError,
            r"every task must report the same metrics, got \['of1'\] after \['of0'\]",
        ),
    ],
)
def test_result_of_the_wrong_form_is_named(changes, error, sentence):
    with pytest.raises(error, match=f"Wrong.task_gradient.*{sentence}|Wrong.*{sentence}"):
        fit(Wrong(**changes))


def test_result_that_is_no_task_result_is_named():
    class Old(Pull):
        def task_gradient(self, params, task, step):
            return super().task_gradient(params, task, step).gradient

    with pytest.raises(TypeError, match=r"Old.task_gradient must return meta.TaskResult.* got dict"):
        fit(Old())


@pytest.mark.parametrize(("state", "kind"), [({"name": "x"}, "str"), ([object()], "object")])
def test_state_that_no_checkpoint_can_hold_is_named(state, kind):
    class Keeps(Pull):
        def init_state(self, params):
            return state

    with pytest.raises(
        TypeError, match=f"Keeps: the state's leaf .* is a {kind}; .* must be tensors or numbers"
    ):
        fit(Keeps())


def test_state_that_tasks_disagree_on_has_no_mean():
    class Counts(Pull):
        def init_state(self, params):
            return {"slots": torch.tensor([0])}

        def task_gradient(self, params, task, step):
            return replace(
                super().task_gradient(params, task, step), state={"slots": torch.tensor([step.slot])}
            )

    with pytest.raises(
        ValueError, match=r"leaf slots is torch.int64 and differs between tasks, as \[0\] and \[1\]"
    ):
        fit(Counts())


@pytest.mark.parametrize("name", ["slot", "seed"])
def test_what_is_not_known_of_tasks_in_one_call_is_refused_by_name(name):
    class Asks(Pull):
        def task_gradient(self, params, task, step):
            getattr(step, name)
            return super().task_gradient(params, task, step)

    assert fit(Asks())
    with pytest.raises(ValueError, match=rf"step.{name} is not known with batched=true"):
        fit(Asks(), workers=Batched())


def test_what_cannot_predict_is_named():
    class Params(Pull):
        def adapt(self, params, support, step):
            return params

    with pytest.raises(
        TypeError, match="adapt must return a predictor, any callable x -> prediction; got dict"
    ):
        evaluate(Params(), Pull().init(0), TargetSampler(), 2)


def test_adapting_is_tried_before_the_first_step(tmp_path):
    class Params(MAML):
        def adapt(self, params, support, step):
            return super().adapt(params, support, step).params

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meta, "MAML", Params)
        with pytest.raises(TypeError, match="adapt must return a predictor"):
            train(tiny(), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_learner_without_a_model_has_to_say_its_parameters():
    class Bare(MetaLearner):
        def adapt(self, params, support, step): ...
        def task_gradient(self, params, task, step): ...

    with pytest.raises(NotImplementedError, match="Bare has no init, and no model"):
        Bare().init(0)


def test_predictor_gives_what_it_was_given():
    found = Predictor(lambda x: x + 1, params={"a": 1}, trajectory=[lambda x: x, lambda x: x + 1])
    assert [stage(1) for stage in found.trajectory] == [1, 2]
    assert found(1) == 2
    assert found.params == {"a": 1}
    assert Predictor(abs).trajectory is None


# --- estimators of the meta-gradient ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", range(4))
def test_truncated_is_reverse_with_constants_for_the_first_gradients(kept):
    tasks, alpha, steps = Tasks(), 0.07, 3
    learner = MAML(
        tasks.model,
        inner_lr=alpha,
        inner_steps=steps,
        problem=tasks.problem,
        meta_gradient="truncated",
        truncated_steps=kept,
    )
    contraction = torch.eye(SIZE, dtype=torch.float64) - alpha * tasks.A
    expected = torch.zeros(SIZE, dtype=torch.float64)
    for c, q in tasks.tasks():
        end = c + torch.linalg.matrix_power(contraction, steps) @ (tasks.theta() - c)
        expected += torch.linalg.matrix_power(contraction, kept) @ (end - q) / 2
    got = flat(meta_gradient(learner, tasks.params(), tasks.batch()).gradient)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"meta_gradient": "exact"},
            "must be one of reverse, mixed, first_order, truncated, implicit, es, or",
        ),
        ({"meta_gradient": "truncated"}, "meta_gradient='truncated' needs truncated_steps"),
        ({"truncated_steps": 2}, "truncated_steps=2 is of meta_gradient='truncated'.* with 'reverse'"),
        ({"meta_gradient": "truncated", "truncated_steps": 1, "first_order": True}, "contradict each other"),
        ({"meta_gradient": meta.Reverse(), "first_order": True}, "has settings|settings of its own"),
        ({"meta_gradient": meta.Mixed(), "mixed_segment": 3}, "leave mixed_segment out"),
        ({"meta_gradient": "es", "first_order": True}, "contradict each other"),
        ({"meta_gradient": "implicit", "es_pairs": 3}, "es_pairs=3 is of meta_gradient='es'"),
        ({"meta_gradient": "truncated", "truncated_steps": -1}, "steps must be an integer of 0 or more"),
        ({"meta_gradient": "mixed", "mixed_segment": 0}, "segment must be an integer of 1 or more"),
        ({"meta_gradient": "implicit", "implicit_strength": -1.0}, "strength must be a finite number of 0"),
        (
            {"meta_gradient": "implicit", "implicit_iterations": 0},
            "iterations must be an integer of at least 1",
        ),
        ({"meta_gradient": "es", "es_sigma": 0.0}, "sigma must be a finite number above 0"),
        ({"meta_gradient": "es", "es_pairs": 0}, "pairs must be an integer of 1 or more"),
    ],
)
def test_estimators_that_contradict_each_other_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MAML(neo.nn.MLP(1, 1), **options)


def test_unknown_setting_of_an_estimator_is_refused_as_python_does():
    with pytest.raises(TypeError, match="unexpected keyword argument 'mixed_steps'"):
        MAML(neo.nn.MLP(1, 1), mixed_steps=3)


# --- dropout, and a run in a script -----------------------------------------------------------------------------------

DROPOUT = [
    "model=torch",
    "model.module=torch.nn.Sequential",
    "model.training=true",
    "~model.options",
    "+model.options._args_=[{_target_: torch.nn.Flatten},{_target_: torch.nn.Dropout, p: 0.3},"
    "{_target_: torch.nn.Linear, in_features: 784, out_features: 3}]",
]


@pytest.fixture
def with_dropout(monkeypatch):
    def config(*overrides):
        with initialize_config_module("conf", version_base="1.3"):
            kept = [one for one in TINY if not one.startswith("model.")]
            return compose("train", [*kept, *DROPOUT, *overrides])

    return config


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "meta_sgd", "reptile"])
def test_dropout_trains_evaluates_and_resumes_bit_for_bit(with_dropout, algorithm, tmp_path):
    options = [f"algorithm={algorithm}", "algorithm.inner_steps=2", "task.queries=4"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(with_dropout(*options), whole)
    torch.manual_seed(5)
    train(with_dropout(*options, "trainer.iterations=2"), halves)
    torch.manual_seed(6)
    train(resumed_config(halves, {"trainer.iterations": 4}), halves, resume=True)
    assert_same_run(whole, halves)
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, halves)]
    assert results[0]["test/loss"] == results[1]["test/loss"]


def test_loaded_run_adapts_as_its_evaluation_did(tmp_path):
    result = train(tiny(), tmp_path)
    trained = meta.load(tmp_path, which="last")
    assert isinstance(trained.learner, MAML)
    assert trained.config.task.ways == 3
    sampler = Experiment(tiny()).sampler("test")
    scores = [
        float(trained.problem.query_loss(trained.adapt(task.support, slot=slot), task.query)[1])
        for slot, task in enumerate(sampler.sample(0, 5))
    ]
    assert sum(scores) / 5 == pytest.approx(result["test/accuracy"])
    best = meta.load(tmp_path)
    assert best.params.keys() == trained.params.keys()
    with pytest.raises(ValueError, match="unknown checkpoint='first'"):
        meta.load(tmp_path, which="first")


def test_run_that_failed_before_its_first_checkpoint_has_none(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(
        CheckpointError, match="name the folder of a run that has reached its first checkpoint"
    ):
        meta.load(tmp_path)


def test_run_without_validation_has_no_best(tmp_path):
    train(tiny("trainer.val_every=0"), tmp_path)
    with pytest.raises(CheckpointError, match=r'no validation ran. Use .*which="last"'):
        meta.load(tmp_path)
