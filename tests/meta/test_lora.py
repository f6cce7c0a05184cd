"""Low-rank adapters as what the inner loop adapts, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import meta
import neo
from meta import MAML, Step
from meta.metrics_file import read_metrics
from tests.meta.cli.test_commands import TINY, call
from tests.meta.test_maml import random_tasks

# Rows of pixels as tokens, through torch's own transformer layer; of two configuration files and nothing else.
TRANSFORMER = """
module: torch.nn.Sequential
options:
  _args_:
    - {_target_: torch.nn.Flatten, start_dim: 1, end_dim: 2}
    - _target_: torch.nn.TransformerEncoderLayer
      _args_: [28, 2, 8]
      batch_first: true
    - {_target_: torch.nn.Flatten}
    - {_target_: torch.nn.Linear, in_features: 784, out_features: 3}
"""
TASKS = [one for one in TINY if not one.startswith(("model.", "trainer.iterations"))]
ADAPTERS = ["algorithm=anil", "algorithm.adapt=*.lora_*"]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "rows.yaml").write_text(
        f'defaults: [lora, _self_]\nlayers: ["*attn*weight", "*linear?.weight"]\nrank: 2\n{TRANSFORMER}'
    )
    (tmp_path / "model" / "small.yaml").write_text(
        "defaults: [conv4@model, _self_]\n_target_: neo.nn.LoRA\nmodel: {hidden: 4}\nlayers: '*'\nrank: 2\n"
    )
    return tmp_path


@pytest.mark.slow
def test_transformer_trains_and_resumes_with_adapters_in_its_inner_loop(own):
    arguments = ["--config-dir", str(own), "model=rows", *ADAPTERS, *TASKS, "optimizer.lr=0.01"]
    for folder, iterations in (("straight", 25), ("resumed", 15)):
        length = [f"trainer.iterations={iterations}", f"hydra.run.dir={folder}"]
        done = call(own, "train", *arguments, *length)
        assert done.code == 0, done.stderr
    assert "test accuracy" in done.stdout
    done = call(own, "train", "resume=resumed", "trainer.iterations=25")
    assert done.code == 0, done.stderr
    straight, resumed = (
        [line["train/loss"] for line in read_metrics(own / folder / "metrics.jsonl") if "train/loss" in line]
        for folder in ("straight", "resumed")
    )
    assert straight == resumed
    assert sum(straight[-8:]) < 0.9 * sum(straight[:8])
    loaded = meta.load(own / "resumed")
    assert isinstance(loaded.learner.model, neo.nn.LoRA)
    adapter = loaded.params["1.self_attn.in_proj_weight.lora_b"]  # zeros at the start
    assert adapter.shape == (84, 2)
    assert float(adapter.data.abs().max()) > 0
    done = call(own, "evaluate", "run_dir=resumed", "tasks=2", "ways=2")
    assert done.code == 0, done.stderr


def test_model_of_neos_own_is_wrapped_by_a_configuration_file(own):
    done = call(
        own, "train", "--config-dir", str(own), "model=small", *ADAPTERS, *TASKS,
        "trainer.iterations=1", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    adapters = [name for name in meta.load(own / "run").params if name.endswith(".lora_a")]
    assert adapters == [*(f"conv{i}.weight.lora_a" for i in range(4)), "head.weight.lora_a"]


def test_adapters_alone_adapt():
    model = neo.nn.LoRA(neo.nn.Conv4(ways=3, hidden=4, size=8, blocks=1), ["conv*", "head.weight"], rank=2)
    learner = MAML(model, adapt="*.lora_*", inner_steps=2)
    params, support = learner.init(seed=0), random_tasks(3, 1, torch.float32, size=8)[0].support
    adapted = learner.adapt(params, support, Step()).params
    assert {name for name in params if adapted[name] is not params[name]} == {
        f"{name}.lora_{letter}" for name in ("conv0.weight", "head.weight") for letter in "ab"
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model.layers=null"], "model.layers must be a pattern of the names of weights, or a list: 1.self_attn.in_"),
        (["model.layers=atn*"], "LoRA: layers='atn*' matches no parameter; it must be a pattern of the names of w"),
    ],
)  # fmt: skip
def test_wrong_adapters_are_refused_before_training(arguments, sentence, own):
    done = call(own, "train", "--config-dir", str(own), "model=rows", *ADAPTERS, *arguments, *TASKS)
    assert done.code == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
