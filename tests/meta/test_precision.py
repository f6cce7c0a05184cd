"""precision=float64 and bfloat16: what computes in which dtype, and runs that resume in it."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module

import neo
from meta.evaluate_run import evaluate_run
from meta.experiment import Experiment
from meta.interruption import Stopped
from meta.loading import load
from meta.plots import canvas
from meta.resume import resumed_config
from meta.run import Run
from neo import pytree
from tests.meta.runs import train
from tests.meta.test_run import assert_same_run, tiny


def composed(*overrides: str):
    with initialize_config_module("conf", version_base="1.3"):
        return compose("train", ["device=cpu", "trainer.meta_batch=2", *overrides])


def first_step(config):
    experiment = Experiment(config)
    start = experiment.start()
    state, found = next(experiment.trainer.steps(experiment.sampler("train"), start))
    return start, state, found


def dtypes(tree) -> set[torch.dtype]:
    return {leaf.dtype for leaf in pytree.leaves(tree) if hasattr(leaf, "dtype")}


@pytest.mark.parametrize("settings", [("algorithm=maml_plus_plus",), ("batched=true",), ("workers=2",)])
def test_float64_begins_at_the_float32_bits_and_computes_all_in_float64(settings):
    narrow, _, rough = first_step(tiny(*settings))
    start, state, found = first_step(tiny(*settings, "precision=float64"))
    assert dtypes((start, state, found.gradient, found.loss)) == {torch.float64}
    for wide, leaf in zip(pytree.leaves(start.params), pytree.leaves(narrow.params), strict=True):
        assert torch.equal(wide.data.float(), leaf.data)
    assert torch.allclose(found.loss.float(), rough.loss, rtol=1e-4)
    assert not torch.equal(found.loss.float().double(), found.loss)


def test_float64_meta_gradient_is_that_of_a_central_difference():
    """At 1e-8 of its size, which float32 anywhere on the way would spoil."""
    experiment = Experiment(composed("task=sinusoid", "precision=float64", "model._args_=[1,6,1]"))
    start, sampler = experiment.start(), experiment.sampler("train")
    task = sampler.sample(0, 1)[0]
    direction = {name: torch.cos(leaf.data * 3 + 1) for name, leaf in start.params.items()}
    step = experiment.trainer.batch(start).step(0, 0, start.state)

    def loss(at: float) -> float:
        params = {
            name: neo.LiteTensor(leaf.data + at * direction[name]) for name, leaf in start.params.items()
        }
        return float(experiment.learner.task_gradient(params, task, step).loss)

    gradient = experiment.learner.task_gradient(start.params, task, step).gradient
    along = sum(float((gradient[name].data * direction[name]).sum()) for name in gradient)
    h = 1e-5
    assert (loss(h) - loss(-h)) / (2 * h) == pytest.approx(along, rel=1e-7)


def test_bfloat16_predicts_as_torch_does_under_autocast_and_keeps_parameters_and_gradients_in_float32():
    config = composed("task=sinusoid", "precision=bfloat16", "trainer.iterations=1")
    experiment = Experiment(config)
    start, state, found = first_step(config)
    assert dtypes((start, state, found.gradient, found.loss)) == {torch.float32}
    x = experiment.sampler("test").sample(0, 1)[0].query.x
    p = {name: leaf.data for name, leaf in start.params.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = F.relu(F.linear(x, p["linear0.weight"], p["linear0.bias"]))
        hidden = F.relu(F.linear(hidden, p["linear1.weight"], p["linear1.bias"]))
        expected = F.linear(hidden, p["linear2.weight"], p["linear2.bias"])
    predictor = experiment.trained(start).adapt(experiment.sampler("test").sample(0, 1)[0].support, 0)
    assert torch.equal(predictor(x).data, expected)
    assert expected.dtype == torch.bfloat16
    assert dtypes(
        experiment.trained(start).adapt(experiment.sampler("test").sample(0, 1)[0].support).params
    ) == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sinusoid", "glyphs", "pinn"])
@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_pictures_are_drawn(precision, task, tmp_path):
    short = ["trainer.iterations=1", "trainer.val_tasks=2", "evaluation.tasks=2"]
    train(composed(f"task={task}", f"precision={precision}", *short), tmp_path)
    assert (tmp_path / "plots" / "tasks.png").exists()


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_run_resumes_bit_for_bit_and_is_evaluated(precision, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "FORMATS", {})
    config = tiny(f"precision={precision}")
    result = Run(config, tmp_path / "whole").train()
    with pytest.raises(Stopped):
        Run(config, tmp_path / "halves", validated=lambda step, score: "half is enough for now").train()
    Run(resumed_config(tmp_path / "halves", {}), tmp_path / "halves", resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert json.loads((tmp_path / "whole" / "record.json").read_text())["config"]["precision"] == precision
    assert evaluate_run(tmp_path / "whole", tasks=5, name="again")["test/loss"] == result["test/loss"]
    wanted = torch.float64 if precision == "float64" else torch.float32
    trained = load(tmp_path / "whole")
    assert dtypes(trained.params) == {wanted}
    mine = Experiment(tiny()).sampler("test").sample(0, [0])[0]  # float32, as images of one's own are
    assert dtypes(trained.adapt(mine.support)(mine.query.x)) == {
        torch.float64 if precision == "float64" else torch.bfloat16
    }


def test_a_torch_module_takes_the_precision_of_the_run_with_its_buffers():
    module = ("model=torch", "model.module=torch.nn.BatchNorm1d", "+model.options.num_features=1")
    config = composed("task=sinusoid", *module, "model.buffers=frozen", "precision=float64")
    assert dtypes(first_step(config)[1]) == {torch.float64}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["precision=float16"], "unknown precision='float16'; choose precision=float32, float64, bfloat16"),
        (
            ["precision=bfloat16", "model=torch", "model.module=torch.nn.Flatten", "model.dtype=float64"],
            "precision=bfloat16 needs the model's parameters in float32, and model.dtype=float64",
        ),
        (["precision=bfloat16", "trainer.xray_every=2"], "xray_every=2 looks into the inner loop in float32"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Experiment(composed(*settings)).start()
