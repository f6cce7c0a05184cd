"""Exported models predict in plain torch what they predict in Neo."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import neo
from meta.cli.configs import composed
from meta.experiment import Experiment
from meta.export import export_run
from meta.export.definition import Definition, define
from meta.loading import load
from meta.models import lora_model, torch_model
from meta.named_models import torchvision_model
from meta.plots import canvas
from meta.problems import constant
from meta.run import Run
from neo import nn
from tests.meta.cli.test_commands import call
from tests.meta.test_run import TINY, tiny

# What a user without Neo does: each folder's module.py and, where it is, its program, on x; the predictions are kept.
READER = """
import importlib.util, sys
from pathlib import Path
import torch
for folder in map(Path, sys.argv[1:]):
    spec = importlib.util.spec_from_file_location(folder.name, folder / "model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    x = torch.load(folder / "x.pt", weights_only=True)
    with torch.no_grad():
        found = [model.load()(x)]
        if (folder / "model.pt2").exists():
            found.append(torch.export.load(folder / "model.pt2").module()(x))
    torch.save(found, folder / "found.pt")
assert not {"neo", "meta", "tasks"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "FORMATS", {})
        Run(tiny("model=conv4_maxpool", "optimizer.lr=0.01"), folder).train()
    return folder


def pictures(folder: Path) -> Path:
    """Three classes of unequal size, RGB of 20x24."""
    draw = np.random.default_rng(0)
    for name, count in (("ash", 1), ("elm", 3), ("oak", 2)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(
                folder / name / f"{i}.png"
            )
    return folder


@pytest.mark.slow
def test_predictions_in_a_process_without_neo_are_those_of_neo(run, tmp_path):
    """Meta-learned; adapted to a test task; to a folder of class folders; to arrays."""
    trained = load(run, "last")
    task = _test_task(trained, 4)
    np.savez(tmp_path / "mine.npz", x=task.support.x.numpy(), y=task.support.y.numpy())
    adapted = constant(trained.adapt(task.support, slot=4)(task.query.x))
    expected = {
        "learned": constant(trained.learner.model(trained.params, task.query.x)),
        "slot": adapted,
        "arrays": adapted,
        "folder": None,
    }
    export_run(run, out=tmp_path / "learned")
    export_run(run, slot=4, formats=["torch", "torch_export"], out=tmp_path / "slot")
    export_run(run, support=tmp_path / "mine.npz", out=tmp_path / "arrays")
    result = export_run(run, support=pictures(tmp_path / "trees"), out=tmp_path / "folder")
    assert result["classes"] == ["ash", "elm", "oak"]
    for name in expected:
        torch.save(task.query.x, tmp_path / name / "x.pt")
    folders = [str(tmp_path / name) for name in expected]
    subprocess.run([sys.executable, "-I", "-c", READER, *folders], check=True, cwd=tmp_path)
    for name, wanted in expected.items():
        found = torch.load(tmp_path / name / "found.pt")
        assert len(found) == (2 if name == "slot" else 1)
        for one in found if wanted is not None else ():
            torch.testing.assert_close(one, wanted, rtol=0, atol=2e-6)
    assert not torch.allclose(torch.load(tmp_path / "folder" / "found.pt")[0], expected["learned"], atol=1e-3)
    about = json.loads((tmp_path / "slot" / "export.json").read_text())
    assert (about["what"], about["inner_steps"]) == ("adapted to test task 4", 1)
    assert about["record"] == json.loads((run / "record.json").read_text())


def _test_task(trained, slot):
    return Experiment(trained.config).sampler("test").sample(0, [slot])[0]


class Classifier(torch.nn.Module):
    """Batch norm, dropout, a buffer and tied weights."""

    def __init__(self, width: int = 4, inputs: int = 6, outputs: int | None = None) -> None:
        super().__init__()
        width = outputs or width
        self.first = torch.nn.Linear(inputs, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.drop = torch.nn.Dropout(0.5)
        self.second = torch.nn.Linear(width, width)
        self.third = torch.nn.Linear(width, width)
        self.third.weight = self.second.weight
        self.register_buffer("scale", torch.tensor(1.5))

    def forward(self, x):
        x = self.drop(torch.relu(self.norm(self.first(x.flatten(1)))))
        return {"logits": self.third(torch.tanh(self.second(x))) * self.scale}


NET = f"{__name__}.Classifier"
MODELS = {
    "conv4": (lambda: nn.Conv4(ways=3, hidden=4), (1, 28, 28)),
    "conv4 as the MAML paper's": (lambda: nn.Conv4(ways=3, hidden=4, scale=False, fused=False), (1, 28, 28)),
    "embedding": (lambda: nn.Conv4(ways=None, hidden=4, channels=3, size=20, pool="max"), (3, 20, 20)),
    "mlp": (lambda: nn.MLP(6, 5, 3), (6,)),
    "siren": (lambda: nn.Siren(2, 5, 1), (2,)),
    "torch module": (lambda: torch_model(NET, options={"width": 5}, output="logits"), (2, 3)),
    "torch module, frozen": (lambda: torch_model(NET, output="logits", buffers="frozen"), (2, 3)),
    "lora": (lambda: lora_model(NET, layers="*second*", rank=2, output="logits"), (2, 3)),
    "lora on constants": (
        lambda: lora_model(NET, layers="*second*", rank=2, output="logits", frozen="*"),
        (2, 3),
    ),
    "mlp with norm": (lambda: nn.MLP(6, 5, 3, norm=True, scale=False), (6,)),
    "mlp, frozen": (lambda: nn.Frozen(nn.MLP(6, 5, 3), "linear0.*"), (6,)),
    "of few channels": (
        lambda: torch_model("torch.nn.Conv2d", options={"_args_": [3, 2, 3]}, channels=3),
        (1, 5, 5),
    ),
}


def predicted(made: Definition, x: torch.Tensor, folder: Path) -> torch.Tensor:
    """By the module that the files of a definition give."""
    (folder / "model.py").write_text(made.source)
    torch.save(made.state, folder / "state_dict.pt")
    spec = importlib.util.spec_from_file_location("exported", folder / "model.py")
    exported = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exported)
    with torch.no_grad():
        return exported.load()(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_definition_gives_the_same_function(name, dtype, tmp_path):
    make, shape = MODELS[name]
    model = make()
    draw = torch.Generator().manual_seed(1)
    params = {
        key: neo.LiteTensor(leaf.data + 0.3 * torch.randn(leaf.shape, generator=draw), dtype=dtype)
        for key, leaf in model.init(seed=0).items()
    }
    x = torch.randn((7, *shape), generator=draw).to(dtype)
    made = define(model, params, "A model.")
    found = predicted(made, x, tmp_path)
    atol = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(found, constant(model(params, x)), rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("ways", [3, None])
def test_a_named_model_is_exported_with_the_layers_that_were_fitted(ways, tmp_path):
    model = torchvision_model("resnet18", ways=ways, in_channels=1)
    params = {name: leaf.to(torch.float64) for name, leaf in model.init(seed=0).items()}
    x = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = define(model, params, "A model.")
    found = predicted(made, x, tmp_path)
    expected = constant(model(params, x))
    assert expected.shape[1] == (ways or 512)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.slow
def test_a_module_that_was_trained_with_dropout_is_exported_without(tmp_path):
    small = [one for one in TINY if not one.startswith("model.")]
    module = ["model=torch", f"model.module={NET}", "model.output=logits", "model.training=true"]
    sizes = ["+model.options.inputs=784", "+model.options.outputs=${task.ways}"]
    Run(composed("train", [*small, *module, *sizes]), tmp_path / "run").train()
    for out, how in (("learned", {}), ("adapted", {"slot": 1})):
        assert export_run(tmp_path / "run", out=tmp_path / out, **how)["difference"] < 1e-4


class Unknown(nn.Module):
    pass


def test_what_cannot_be_exported_is_refused_in_a_sentence(run, tmp_path):
    done = call(tmp_path, "export", f"run_dir='{run}'", "formats=[onnx]")
    if importlib.util.find_spec("onnx") is None:
        assert done.stderr.startswith("error: formats=[onnx] needs onnx")
    for arguments, said in (
        (["slot=1", "support=here"], "support=here and slot=1: a model adapts to one of them"),
        (["support=here"], "support=here is neither a folder of class folders nor an .npz"),
        (["formats=[pickle]"], "unknown format 'pickle'"),
        (["checkpoint=ensemble"], "checkpoint=ensemble is several models"),
    ):
        done = call(tmp_path, "export", f"run_dir='{run}'", *arguments)
        assert done.code == 1
        assert said in done.stderr
    np.savez(tmp_path / "many.npz", x=np.zeros((4, 1, 28, 28), np.float32), y=np.arange(4))
    done = call(tmp_path, "export", f"run_dir='{run}'", "support=many.npz")
    assert "has 4 classes, and the model of this run tells 3 apart" in done.stderr
    with pytest.raises(ValueError, match="the layer 'mine' of the model, Unknown, has no torch layer"):
        define(nn.Sequential([("mine", Unknown())]), {}, "")
    assert not (run / "export").exists()
