"""Every task that is no few-shot classification trains, resumes bit for bit, is evaluated, and has its pictures."""

from __future__ import annotations

import json

import pytest
import torch

from meta.cli.configs import composed
from meta.evaluate_run import evaluate_run
from meta.interruption import Stopped
from meta.plots import canvas
from meta.resume import resumed_config
from meta.run import Run
from tasks.mnist import Digits
from tests.meta.test_run import assert_same_run

SHORT = [
    "trainer.iterations=2",
    "trainer.log_every=1",
    "trainer.checkpoint_every=1",
    "trainer.val_every=1",
    "trainer.val_tasks=1",
    "evaluation.tasks=2",
    "device=cpu",
]
MNIST = [
    *("task.dataset.examples=40", "task.dataset.clean=20", "task.dataset.validation=20"),
    *("task.shots=8", "task.queries=6", "model._args_=[784,5,10]"),
]
GLYPHS = ["task.dataset.images.alphabets=4", "task.dataset.images.characters=3", "model._args_=[2,6,1]"]
TASKS = {
    "reweighting": MNIST,
    "hyperparameters": ["trainer.meta_batch=2", *MNIST],
    "learned_loss": ["trainer.meta_batch=2"],
    "learned_optimizer": ["trainer.meta_batch=2"],
    "distillation": ["trainer.meta_batch=2", "task.test_queries=10", "algorithm.inner_steps=2", *MNIST],
    "harmonic": ["trainer.meta_batch=2", "model._args_=[1,4,1]"],
    "completion": ["trainer.meta_batch=2", *GLYPHS],
    "siren": ["trainer.meta_batch=2", *GLYPHS],
    "pinn": ["trainer.meta_batch=2", "task.shots=4", "task.values=2", "model._args_=[2,4,1]"],
}
VARIANTS = {
    "hyperparameters": ["algorithm.online=true", "algorithm.inner_steps=1"],  # weights are carried
    "learned_optimizer": ["algorithm.rule=mlp", "batched=false"],
}
OTHERS = {
    "distillation": ["algorithm=hyperparameters"],
    "completion": ["algorithm=meta_sgd"],
}  # the task's picture serves
RUNS = [
    *((task, settings) for task, settings in TASKS.items()),
    *((task, [*TASKS[task], *settings]) for task, settings in [*VARIANTS.items(), *OTHERS.items()]),
]


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's place is taken by noise, so that no file is needed."""
    x = torch.rand(100, 784, generator=torch.Generator().manual_seed(0))
    digits = Digits(x, torch.arange(100) % 10)
    monkeypatch.setattr("tasks.mnist_batches.load_mnist", lambda data_dir: (digits, digits))


@pytest.mark.slow
@pytest.mark.parametrize(("task", "settings"), RUNS)
def test_task_trains_and_resumes_bit_for_bit(task, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "FORMATS", {"png": canvas.FORMATS["png"]})
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    config = composed("train", [*SHORT, f"task={task}", *settings])
    result = Run(config, whole).train()
    torch.manual_seed(5)
    with pytest.raises(Stopped):
        Run(config, halves, validated=lambda step, score: "half is enough for now").train()
    Run(resumed_config(halves, {}), halves, resume=True).train()
    assert_same_run(whole, halves)
    again = json.loads((halves / "result.json").read_text())
    score = f"test/{result['metric']}"
    assert (again["test/loss"], again[score]) == (result["test/loss"], result[score])
    assert evaluate_run(whole, tasks=2, name="again")[score] == result[score]
    assert (whole / "plots" / "tasks.png").is_file() == (config.task.picture is not None)
