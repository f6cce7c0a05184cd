"""The best few checkpoints of a run, kept by validation, and the mean of their predictions in evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

import meta
import neo
from meta import MAML, Predictor, Step, evaluate
from meta.checkpoint import CheckpointError, Checkpoints, read_header
from meta.ensemble import Ensemble
from meta.evaluate_run import evaluate_run
from meta.metrics_file import read_metrics
from meta.resume import resumed_config
from meta.run import Run
from meta.trainer import State
from neo import LiteTensor
from tasks import Batch, Task

TINY = [
    "task.dataset.alphabets=4",
    "task.dataset.characters=6",
    "task.ways=3",
    "task.queries=2",
    "model.hidden=4",
    "trainer.meta_batch=2",
    "trainer.iterations=12",
    "trainer.log_every=1",
    "trainer.checkpoint_every=5",
    "trainer.val_every=1",
    "trainer.val_tasks=3",
    "trainer.keep=1",
    "trainer.keep_best=3",
    "evaluation.tasks=5",
    "device=cpu",
]


def tiny(*overrides: str) -> DictConfig:
    with initialize_config_module("conf", version_base="1.3"):
        return compose("train", [*TINY, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    Run(tiny("algorithm=maml_plus_plus", "algorithm.msl_iterations=6"), folder).train()
    return folder


def state(step: int) -> State:
    return State(step, {"w": LiteTensor(torch.full((2,), float(step)))}, None)


def saved(folder: Path, scores: dict[int, float | None], **options) -> Checkpoints:
    """A checkpoint a score, in order; about(...) is what the trainer says of each."""
    checkpoints = Checkpoints(folder, **options)
    for step, score in scores.items():
        checkpoints.save(state(step), about(score))
    return checkpoints


def about(score: float | None, metric: str = "accuracy", higher_is_better: bool = True):
    validated = {} if score is None else {f"val/{metric}": score}
    return {"metric": metric, "higher_is_better": higher_is_better, **validated}


def steps(paths: list[Path]) -> list[int]:
    return [read_header(path)["step"] for path in paths]


def test_the_best_few_stay_beside_the_last_few(tmp_path):
    scores = {0: None, 1: 0.5, 2: 0.9, 3: 0.7, 4: 0.9, 5: None, 6: 0.6, 7: 0.1}
    checkpoints = saved(tmp_path, scores, keep=2, keep_best=3)
    assert steps(checkpoints.paths()) == [2, 3, 4, 6, 7]
    assert steps(checkpoints.ranked()) == [2, 4, 3]  # of equal ones the earlier


def test_an_error_is_better_the_smaller_it_is(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=2)
    for step, error in enumerate([0.4, 0.1, 0.3, 0.5]):
        checkpoints.save(state(step), about(error, "mse", higher_is_better=False))
    assert steps(checkpoints.ranked()) == [1, 2]
    assert steps(checkpoints.paths()) == [1, 2, 3]
    assert checkpoints.among_best(about(0.2, "mse", higher_is_better=False))
    assert not checkpoints.among_best(about(0.3, "mse", higher_is_better=False))


def test_none_of_the_best_are_kept_where_none_are_asked_for(tmp_path):
    checkpoints = saved(tmp_path, {1: 0.9, 2: 0.5, 3: 0.4}, keep=1, keep_best=0)
    assert steps(checkpoints.paths()) == [3]
    assert not checkpoints.among_best(about(1.0))


def test_a_damaged_checkpoint_is_none_of_the_best(tmp_path):
    checkpoints = saved(tmp_path, {1: 0.9, 2: 0.5}, keep=2, keep_best=2)
    checkpoints.path(1).write_bytes(b"damaged")
    assert steps(checkpoints.ranked()) == [2]


@pytest.mark.slow
def test_a_run_keeps_its_best_by_validation_whether_a_checkpoint_was_due_or_not(finished):
    lines = read_metrics(finished / "metrics.jsonl")
    by_score = sorted(lines, key=lambda line: -line["val/accuracy"])
    ranked = Checkpoints(finished / "checkpoints", keep_best=3).ranked()
    assert steps(ranked) == [line["step"] for line in by_score[:3]]
    assert read_header(finished / "checkpoints" / "best.safetensors")["step"] == by_score[0]["step"]


@pytest.mark.slow
def test_a_resumed_run_has_the_same_best(finished, tmp_path):
    config = tiny("algorithm=maml_plus_plus", "algorithm.msl_iterations=6")
    run = Run(config, tmp_path)
    stopping = run.experiment.trainer
    stopping.iterations = 7  # as if it had been stopped there
    run.train()
    (tmp_path / "result.json").unlink()
    resumed = resumed_config(tmp_path, {})
    Run(resumed, tmp_path, resume=True).train()
    for one, other in zip(
        *(Checkpoints(folder / "checkpoints", keep_best=3).ranked() for folder in (finished, tmp_path)),
        strict=True,
    ):
        assert one.name == other.name
        assert read_header(one)["val/accuracy"] == read_header(other)["val/accuracy"]


def test_an_ensemble_predicts_the_mean_of_its_members():
    model = neo.nn.MLP(4, 5, 3)
    learner = MAML(model, inner_steps=2)
    members = [model.init(seed=seed) for seed in range(3)]
    generator = torch.Generator().manual_seed(0)
    support = Batch(torch.randn(6, 4, generator=generator), torch.arange(3).repeat(2))
    x = torch.randn(5, 4, generator=generator)
    predictor = Ensemble(learner, [1, 2, 3]).adapt(members, support, Step(state=[(), (), ()]))
    alone = [learner.adapt(member, support, Step()) for member in members]
    assert torch.equal(predictor(x).data, sum(one(x).data for one in alone) / 3)
    assert len(predictor.trajectory) == 3
    for taken, stage in enumerate(predictor.trajectory):
        expected = sum(one.trajectory[taken](x).data for one in alone) / 3
        assert torch.equal(stage(x).data, expected)


def test_members_are_told_their_own_iteration_and_state():
    class Recording(MAML):
        def adapt(self, params, support, step):
            told.append((step.iteration, step.state))
            return Predictor(lambda x: torch.zeros(2))

    told: list = []
    learner = Ensemble(Recording(neo.nn.MLP(4, 3)), [5, 9])
    predictor = learner.adapt(["a", "b"], None, Step(iteration=9, state=["of a", "of b"]))
    assert told == [(5, "of a"), (9, "of b")]
    assert predictor.trajectory is None
    assert predictor.params is None


def test_batch_norm_policies_reach_every_member():
    model = neo.nn.Conv4(3, size=8, hidden=4, blocks=2)
    members = [model.init(seed=seed) for seed in range(2)]
    learner = MAML(model, inner_steps=1)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(1, 6, 1, 8, 8, generator=generator), torch.arange(3).repeat(2)[None]

    class One:
        def sample(self, iteration, slots):
            return Task(Batch(x, y), Batch(x + 1, y))

    found = {
        policy: evaluate(Ensemble(learner, [0, 0]), members, One(), 1, state=[(), ()], batch_norm=policy).loss
        for policy in ("batch", "single", "support")
    }
    assert len(set(found.values())) == 3


def test_an_ensemble_cannot_be_trained():
    with pytest.raises(NotImplementedError, match="it is for evaluation"):
        Ensemble(MAML(neo.nn.MLP(4, 3)), [0]).task_gradient([], None, Step())


def test_evaluation_of_the_ensemble_says_which_checkpoints_it_has(finished):
    found = evaluate_run(finished, tasks=4, which="ensemble", name="together")
    names = [path.name for path in Checkpoints(finished / "checkpoints", keep_best=3).ranked()]
    assert found["checkpoint"] == ", ".join(names)
    assert found["iterations"] == max(int(name[5:13]) for name in names)
    assert json.loads((finished / "together.json").read_text())["checkpoint"] == found["checkpoint"]
    assert len(found["test/steps"]) == 6


def test_fewer_ways_than_trained_for_are_evaluated_by_the_ensemble_too(finished):
    found = evaluate_run(finished, tasks=2, which="ensemble", name="two", overrides={"ways": 2})
    assert found["protocol"]["ways"] == 2


def test_load_gives_an_ensemble_that_adapts(finished):
    trained = meta.load(finished, "ensemble")
    assert isinstance(trained.learner, Ensemble)
    task = trained_task()
    predictor = trained.adapt(task.support, inner_steps=2)
    assert len(predictor.trajectory) == 3
    assert predictor(task.query.x).shape == (6, 3)
    with pytest.raises(ValueError, match="unknown checkpoint='first'; expected 'last', 'best'"):
        meta.load(finished, "first")


def trained_task() -> Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 28, 28, generator=generator)
    return Task(Batch(x[:3], torch.arange(3)), Batch(x, torch.arange(3).repeat(2)))


def test_a_run_that_kept_no_best_has_no_ensemble(tmp_path):
    Run(tiny("trainer.keep_best=0", "trainer.iterations=2"), tmp_path).train()
    with pytest.raises(CheckpointError, match=r"holds no checkpoints for an ensemble, .*keep_best=0"):
        meta.load(tmp_path, "ensemble")


def test_a_schedule_over_all_iterations_is_not_changed_by_resuming(finished):
    with pytest.raises(CheckpointError, match=r"makes optimizer\.lr\.steps 20, and it was 12 in the past"):
        resumed_config(finished, {"trainer.iterations": 20})
