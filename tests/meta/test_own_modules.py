"""A user's own module with batch norm and dropout, by import path: trained, resumed bit for bit, evaluated; in part
frozen, and below adapters."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

import meta
from meta.metrics_file import read_metrics
from meta.models import lora_model, torch_model
from tests.meta.cli.test_commands import TINY, call

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width=4, classes=3, fixed=False):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Dropout(0.2),
            nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2),
        )
        self.head = nn.Linear(4 * width, classes) if classes else nn.Identity()
        self.body.requires_grad_(not fixed)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))
"""
TASKS = [one for one in TINY if not one.startswith(("model.", "trainer.iterations"))]
OWN = ["model=torch", "model.module=nets_of_mine.Net", "model.training=true", *TASKS]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "nets_of_mine.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("nets_of_mine", None)
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("nets_of_mine", None)


def done(folder: Path, *arguments: str) -> str:
    found = call(folder, *arguments)
    assert found.code == 0, found.stderr
    return found.stdout


def losses(folder: Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [
        ["algorithm=maml", "algorithm.inner_steps=2"],
        ["algorithm=anil"],
        ["algorithm=protonet", "model.options.classes=0"],
    ],
    ids=["maml", "anil", "protonet"],
)
def test_module_with_batch_norm_and_dropout_trains_resumes_bit_for_bit_and_evaluates(algorithm, mine):
    for folder, iterations in (("straight", 4), ("resumed", 2)):
        length = [f"trainer.iterations={iterations}", f"hydra.run.dir={folder}"]
        assert "test accuracy" in done(mine, "train", *OWN, *algorithm, *length)
    done(mine, "train", "resume=resumed", "trainer.iterations=4")
    assert losses(mine / "straight") == losses(mine / "resumed")
    one, other = (meta.load(mine / folder, which="last").params for folder in ("straight", "resumed"))
    assert all(torch.equal(one[name].data, other[name].data) for name in one)
    for policy in ("single", "support"):
        done(mine, "evaluate", "run_dir=straight", "tasks=2", f"batch_norm={policy}", f"name={policy}")
        assert (
            json.loads((mine / "straight" / f"{policy}.json").read_text())["protocol"]["batch_norm"] == policy
        )


@pytest.fixture
def pretrained(mine) -> dict[str, torch.Tensor]:
    """Saved as w.pth; a body as of another task of seven classes."""
    torch.manual_seed(5)
    module = importlib.import_module("nets_of_mine").Net(classes=7).train()
    module(torch.rand(8, 1, 28, 28))
    torch.save(module.state_dict(), mine / "w.pth")
    return {name: one.clone() for name, one in module.state_dict().items()}


@pytest.mark.slow
def test_frozen_parts_of_a_pretrained_module_stay_as_they_are(mine, pretrained):
    settings = ["model.weights=w.pth", "model.left_out=head.*", "model.frozen=body.*", "model.buffers=frozen"]
    run = ["trainer.iterations=2", "hydra.run.dir=run"]
    said = done(mine, "train", *OWN, *settings, "algorithm=maml", *run)
    numbers = sum(one.numel() for name, one in pretrained.items() if name.startswith("body."))
    assert f"51 meta-parameters, {numbers} numbers of its model constant" in said
    trained = meta_load(mine, "run")
    assert [*trained.params] == ["head.weight", "head.bias"]
    body = {name: one for name, one in pretrained.items() if name.startswith("body.")}
    model = trained.learner.model
    held = {**model.constants, **model.model.state}
    assert all(torch.equal(held[name], one) for name, one in body.items())
    data = json.loads((mine / "run" / "record.json").read_text())["data"]
    assert len(data["model_constants"]) == 64
    assert "test accuracy" in done(mine, "evaluate", "run_dir=run", "tasks=2")

    state = torch.load(mine / "w.pth")
    state["body.1.running_mean"] += 1  # the file is another one now
    torch.save(state, mine / "w.pth")
    for command in (["evaluate", "run_dir=run"], ["train", "resume=run", "trainer.iterations=3"]):
        found = call(mine, *command)
        assert found.code == 1
        assert "of a run whose model has other constants" in found.stderr
        assert "model.weights=w.pth" in found.stderr


def meta_load(folder: Path, run: str) -> meta.Trained:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return meta.load(folder / run, which="last")


@pytest.mark.slow
def test_adapters_of_a_frozen_base_are_what_the_inner_loop_adapts(mine, pretrained):
    settings = [
        "model=lora",
        *OWN[1:],
        "model.weights=w.pth",
        "model.left_out=head.*",
        "model.layers=body.*.weight",
    ]
    settings += ["model.rank=1", "model.frozen=body.*", "algorithm=anil", "algorithm.adapt=*.lora_*"]
    done(mine, "train", *settings, "trainer.iterations=2", "hydra.run.dir=run")
    trained = meta_load(mine, "run")
    adapters = [f"body.{i}.weight.lora_{part}" for i in (0, 4) for part in "ab"]
    assert sorted(trained.params) == sorted(["head.weight", "head.bias", *adapters])
    constants = trained.learner.model.constants
    assert all(torch.equal(one, pretrained[name]) for name, one in constants.items())
    assert {*constants} == {f"body.{i}.{part}" for i in (0, 1, 4, 5) for part in ("weight", "bias")}


def test_weights_that_a_module_does_not_train_take_adapters(mine):
    options = {"fixed": True}
    model = lora_model("nets_of_mine.Net", layers="body.*.weight", rank=1, options=options, seed=2)
    plain = torch_model("nets_of_mine.Net", options=options, seed=2)
    params = model.init(2)
    assert [name for name in params if name.startswith("body.")] == [
        f"body.{i}.weight.lora_{part}" for i in (0, 4) for part in "ab"
    ]
    x = torch.rand(5, 1, 28, 28)
    head = {name: params[name] for name in ("head.weight", "head.bias")}
    torch.testing.assert_close(model(params, x).data, plain(head, x).data)  # B begins at zero


@pytest.mark.slow
def test_frozen_parts_of_neo_s_own_nets_come_from_a_checkpoint(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "fixed.yaml").write_text(
        "defaults: [conv4@model, _self_]\n_target_: meta.models.frozen_model\nmodel: {hidden: 4}\n"
        "frozen: ['conv*', 'norm*']\nweights: null\nseed: ${seed}\n"
    )
    tasks = [*TASKS, "trainer.iterations=2"]
    done(tmp_path, "train", *tasks, "model.hidden=4", "hydra.run.dir=first")
    file = next((tmp_path / "first" / "checkpoints").glob("step-*2.safetensors"))
    arguments = ["--config-dir", str(tmp_path), "model=fixed", f"model.weights={file}", *tasks]
    done(tmp_path, "train", *arguments, "hydra.run.dir=second")
    first, second = (meta_load(tmp_path, run) for run in ("first", "second"))
    assert [*second.params] == ["head.weight", "head.bias"]
    assert all(
        torch.equal(one, first.params[name].data) for name, one in second.learner.model.constants.items()
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"frozen": "boddy.*"}, r"in model\.frozen, 'boddy\.\*' matches no parameter .*body\.0"),
        ({"frozen": "*"}, r"matches every parameter, and nothing would be learned"),
        ({"frozen": 3}, r"the model: frozen=3 must be a pattern of parameter names"),
    ],
)
def test_patterns_of_frozen_parts_that_cannot_be_are_refused(settings, sentence, mine):
    with pytest.raises(ValueError, match=sentence):
        torch_model("nets_of_mine.Net", **settings)
