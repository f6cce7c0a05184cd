"""torchvision's and timm's models by name: heads fitted to the ways, grey images, weights from a local file."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import neo
from meta.cli import configs
from meta.experiment import Experiment
from meta.models import torch_model
from meta.named_models import timm_model, torchvision_model
from meta.pretrained import read_weights
from neo.nn._torch.weights import built
from tasks._torchvision import import_torchvision
from tests.meta.cli.test_commands import TINY, call

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)
SMALL = "shufflenet_v2_x0_5"
LINEAR = {"options": {"in_features": 3, "out_features": 2}}


@pytest.fixture
def pretrained() -> nn.Module:
    """A small classifier of 7 classes, whose running statistics are not 0 and 1."""
    torch.manual_seed(5)
    module = import_torchvision().models.get_model(SMALL, num_classes=7).train()
    module(torch.rand(4, 3, 32, 32))
    return module.eval()


@pytest.mark.parametrize(
    ("name", "head", "shape"),
    [
        (SMALL, "fc.weight", (5, 1024)),
        ("squeezenet1_1", "classifier.1.weight", (5, 512, 1, 1)),
        ("mnasnet0_5", "classifier.1.weight", (5, 1280)),
    ],
)
def test_head_is_fitted_to_the_ways(name, head, shape):
    model = torchvision_model(name, ways=5, seed=1)
    params, again = model.init(1), model.init(1)
    assert params[head].shape == shape
    assert all(torch.equal(params[key].data, again[key].data) for key in params)
    assert model(params, torch.rand(2, 1, 64, 64)).shape == (2, 5)  # grey, as three equal channels


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "nested.pt"])
def test_weights_of_a_file_are_taken_without_the_head(suffix, pretrained, tmp_path):
    file = tmp_path / f"weights.{suffix}"
    state = pretrained.state_dict()
    if suffix == "safetensors":
        save_file(state, file)
    elif suffix == "pth":
        torch.save(state, file)
    else:
        torch.save({"state_dict": {f"module.{key}": one for key, one in state.items()}, "epoch": 3}, file)
    model = torchvision_model(SMALL, ways=5, seed=1, weights=str(file), buffers="frozen")
    params = model.init(1)
    body = {key for key in state if not key.startswith("fc.")}
    for key in body:
        held = params[key].data if key in params else model.state[key]
        assert torch.equal(held, state[key]), key
    assert params["fc.weight"].shape == (5, 1024)
    assert not torch.equal(params["fc.weight"].data, model.init(2)["fc.weight"].data)  # the head is drawn
    features = torchvision_model(SMALL, ways=None, seed=1, weights=str(file), buffers="frozen")
    x = torch.rand(3, 3, 32, 32)
    pretrained.fc = nn.Identity()
    torch.testing.assert_close(
        features(features.init(0), x).data, pretrained(x).detach(), rtol=1e-4, atol=1e-5
    )


def test_one_channel_is_the_same_function_as_three_equal_ones(pretrained, tmp_path):
    torch.save(pretrained.state_dict(), tmp_path / "w.pth")
    options = {
        "ways": None,
        "seed": 1,
        "weights": str(tmp_path / "w.pth"),
        "buffers": "frozen",
        "dtype": "float64",
    }
    three = torchvision_model(SMALL, **options)
    one = torchvision_model(SMALL, in_channels=1, **options)
    params = one.init(1)
    assert params["conv1.0.weight"].shape == (24, 1, 3, 3)
    x = torch.rand(3, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(one(params, x).data, three(three.init(1), x).data, rtol=1e-9, atol=1e-9)
    named = torchvision_model(SMALL, in_channels=2, first="conv1.0", **options)
    assert named.init(1)["conv1.0.weight"].shape == (24, 2, 3, 3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": None}, r"model\.name must be the name of a model of torchvision: resnet18, say"),
        ({"name": "resnet_18"}, r"model\.name=resnet_18 is no model of torchvision; did you mean resnet18\?"),
        ({"name": SMALL, "ways": 0}, r"model\.ways=0 must be an integer of 1 or more, or null"),
        ({"name": SMALL, "in_channels": 0}, r"model\.in_channels=0 must be an integer of 1 or more, or null"),
        (
            {"name": SMALL, "options": {"num_classes": 3}},
            r"model\.options\.num_classes is what model\.ways says",
        ),
        ({"name": SMALL, "options": {"widht": 3}}, r"model\.options\.widht is read by nothing"),
        (
            {"name": "squeezenet1_1", "ways": None},
            r"the number of classes is that of classifier\.1; set model\.ways",
        ),
        (
            {"name": SMALL, "in_channels": 1, "first": "conv1"},
            r"model\.first=conv1 must name the first convolution .* that is a Sequential; did you mean conv1\.0\?",
        ),
        (
            {"name": SMALL, "weights": "nowhere.pth"},
            r"model\.weights=nowhere\.pth: there is no such file; nothing is",
        ),
    ],
)
def test_what_is_wrong_is_said_by_the_key(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        torchvision_model(**{"ways": 5, **settings})


# --- files -----------------------------------------------------------------------------------------------------------


def saved(tmp_path: Path, content: object, name: str = "w.pth") -> str:
    torch.save(content, tmp_path / name)
    return str(tmp_path / name)


def test_misfits_of_a_file_are_named_and_refused_unless_it_is_not_to_be_strict(tmp_path, caplog):
    file = saved(tmp_path, {"weight": torch.ones(2, 3), "bias": torch.ones(4), "scale": torch.ones(1)})
    with pytest.raises(
        ValueError,
        match=r"does not fit the model: it has what the model has not, scale; of another shape are bias \(4,\), in "
        r"the model \(2,\)\. Configure .* model\.strict=false",
    ):
        torch_model("torch.nn.Linear", **LINEAR, weights=file)
    with caplog.at_level(logging.WARNING):
        model = torch_model("torch.nn.Linear", **LINEAR, weights=file, strict=False, seed=3)
    assert len(caplog.messages) == 1
    assert "1 of 2 taken" in caplog.messages[0]
    params = model.init(3)
    assert torch.equal(params["weight"].data, torch.ones(2, 3))
    assert torch.equal(params["bias"].data, built(lambda: nn.Linear(3, 2), 3).bias)
    left = torch_model("torch.nn.Linear", **LINEAR, weights=file, left_out=["bias", "scale"])
    assert torch.equal(left.init(0)["weight"].data, torch.ones(2, 3))
    with pytest.raises(
        ValueError, match=r"model\.left_out=head\.\*: neither the model nor .* has such a name"
    ):
        torch_model("torch.nn.Linear", **LINEAR, weights=file, left_out="head.*")
    other = saved(tmp_path, {"kernel": torch.ones(2)}, "other.pth")
    with pytest.raises(ValueError, match="has nothing for this model: it lacks weight, bias"):
        torch_model("torch.nn.Linear", **LINEAR, weights=other, strict=False)
    lacking = saved(tmp_path, {"weight": torch.ones(2, 3)}, "lacking.pth")
    with pytest.raises(ValueError, match="does not fit the model: it lacks bias"):
        torch_model("torch.nn.Linear", **LINEAR, weights=lacking)


class Runs:
    """A pickle that would run code."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_file_that_would_run_code_or_holds_no_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"to read it would run code in it, which Neo never does .*state_dict"
    ):
        read_weights(saved(tmp_path, {"weight": Runs()}))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="would run code"):
        read_weights(saved(tmp_path, nn.Linear(2, 2)))
    with pytest.raises(
        ValueError, match=r"must hold a state_dict, names and their tensors; it holds a Tensor"
    ):
        read_weights(saved(tmp_path, torch.ones(2)))
    with pytest.raises(ValueError, match=r"it holds a mapping with epoch, lr"):
        read_weights(saved(tmp_path, {"epoch": 3, "lr": 0.1}))
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(
            ValueError, match=rf"model\.weights={name} (cannot be read|holds more than tensors)"
        ):
            read_weights(name)


@pytest.mark.slow
def test_command_trains_from_a_file(pretrained, tmp_path):
    torch.save(pretrained.state_dict(), tmp_path / "w.pth")
    tasks = [one for one in TINY if not one.startswith("model.")]
    done = call(
        tmp_path,
        *("train", "model=torchvision", f"model.name={SMALL}", "model.weights=w.pth", "algorithm=anil"),
        *("algorithm.adapt=fc.*", *tasks, "trainer.iterations=1", "hydra.run.dir=run"),
    )
    assert done.code == 0, done.stderr
    done = call(tmp_path, "evaluate", "run_dir=run", "tasks=2", "batch_norm=support")
    assert done.code == 0, done.stderr


# --- timm ------------------------------------------------------------------------------------------------------------


def test_without_timm_it_is_said_how_to_have_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    experiment = Experiment(configs.composed("train", ["model=timm", "model.name=resnet18"]))
    with pytest.raises(ValueError, match=r"model=timm needs timm, which is not installed; pip install timm"):
        experiment.learner  # noqa: B018


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_s_models_by_name(name, tmp_path):
    import_torchvision()
    timm = importlib.import_module("timm")
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=7).eval()
    size = module.pretrained_cfg["input_size"][1]
    torch.save(module.state_dict(), tmp_path / "w.pth")
    settings = {"weights": str(tmp_path / "w.pth"), "buffers": "frozen"}
    model = timm_model(name, ways=3, in_channels=1, **settings)
    x = torch.rand(2, 1, size, size)
    gradient = neo.grad(lambda params: (model(params, x) ** 2).sum(), argnums=0)(model.init(0))
    assert all(bool(torch.isfinite(one.data).all()) for one in gradient.values())
    assert model(model.init(0), x).shape == (2, 3)
    features = timm_model(name, ways=None, **settings)
    module.reset_classifier(0)
    expected = module(x.expand(-1, 3, -1, -1)).detach()
    torch.testing.assert_close(features(features.init(0), x).data, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_what_timm_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"model\.name=resnet_18 is no model of timm; did you mean"):
        timm_model("resnet_18", ways=3)
    with pytest.raises(ValueError, match=r"model\.options\.pretrained would download weights"):
        timm_model("test_vit", ways=3, options={"pretrained": True})
