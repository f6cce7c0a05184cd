"""trainer.capture=true on the CPU: every configured algorithm's run is the same run, or it says why it cannot be."""

from __future__ import annotations

import json

import pytest
from hydra import compose, initialize_config_module

from meta.cli.overrides import groups
from meta.plots import canvas
from meta.run import Run
from neo.errors import CaptureError
from tests.helpers.built import expect_replay
from tests.meta.test_run import TINY

SHORT = [
    "trainer.iterations=5",
    "trainer.log_every=1",
    "trainer.val_every=0",
    "evaluation.tasks=2",
    "task.queries=4",
    "task.picture=null",
]
REFUSED = {  # algorithm → what its run says
    **dict.fromkeys(
        ("distillation", "es_maml", "hyperparameters", "learned_loss", "learned_optimizer"),
        "step.seed is not known with trainer.capture=true",
    ),
    "maml_plus_plus": "step.iteration is not known with trainer.capture=true",
    **dict.fromkeys(
        ("matchingnet", "metaoptnet", "protonet", "r2d2", "relationnet"),
        "the number of classes is read from support.y.*leave out batched=true, trainer.capture=true",
    ),
}


def losses(algorithm, folder, *overrides):
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", [*TINY, *SHORT, f"algorithm={algorithm}", *overrides])
    result = Run(config, folder).train()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return result["test/loss"], [{name: line[name] for name in line if name != "seconds"} for line in lines]


@pytest.mark.parametrize("algorithm", groups()["algorithm"])
def test_a_captured_run_is_the_run(algorithm, tmp_path, monkeypatch):
    expect_replay()
    monkeypatch.setattr(canvas, "FORMATS", {})
    if algorithm in REFUSED:
        with pytest.raises((CaptureError, ValueError), match=REFUSED[algorithm]):
            losses(algorithm, tmp_path / "captured", "trainer.capture=true")
        return
    assert losses(algorithm, tmp_path / "captured", "trainer.capture=true") == losses(
        algorithm, tmp_path / "plain"
    )
