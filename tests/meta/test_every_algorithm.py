"""What every configured algorithm owes its user: a run that resumes bit for bit, and an evaluation, from its name."""

from __future__ import annotations

import json

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from meta.cli.overrides import groups
from meta.evaluate_run import evaluate_run
from meta.interruption import Stopped
from meta.plots import canvas
from meta.resume import resumed_config
from meta.run import Run
from tests.meta.test_run import TINY, assert_same_run

SHORT = [
    "trainer.iterations=2",
    "trainer.checkpoint_every=1",
    "trainer.val_every=1",
    "trainer.val_tasks=1",
    "evaluation.tasks=2",
    "task.queries=4",  # some algorithms share them out over their inner steps
    "task.picture=null",
]


def short(algorithm: str) -> DictConfig:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", [*TINY, *SHORT, f"algorithm={algorithm}"])
    if config.evaluation.inner_steps:
        config.algorithm.inner_steps = config.evaluation.inner_steps = 2
    return config


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", groups()["algorithm"])
def test_run_resumes_bit_for_bit_and_is_evaluated(algorithm, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "FORMATS", {})  # pictures take most of the time of a run as short as this
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    result = Run(short(algorithm), whole).train()
    torch.manual_seed(5)
    with pytest.raises(Stopped):
        Run(short(algorithm), halves, validated=lambda step, score: "half is enough for now").train()
    Run(resumed_config(halves, {}), halves, resume=True).train()
    assert_same_run(whole, halves)
    again = json.loads((halves / "result.json").read_text())
    assert (again["test/loss"], again["test/accuracy"]) == (result["test/loss"], result["test/accuracy"])
    assert evaluate_run(whole, tasks=2, name="again")["test/accuracy"] == result["test/accuracy"]
