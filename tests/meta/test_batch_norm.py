"""One vocabulary of whose statistics normalise, for every model: values beside torch's own in float64."""

from __future__ import annotations

import copy
import importlib.util
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import neo
from meta import MAMLPlusPlus, Predictor, ProtoNet, Step
from meta.batch_norm import POLICIES, policy
from meta.cli import configs
from meta.experiment import Experiment
from tasks import Batch

CLASSES = 3


class Net(nn.Module):
    """Batch norms in a chain that Neo fuses, in a branch, and on raw images without parameters."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(2, affine=False)
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(self.first(x)))), 2)
        return self.head((x + self.branch(x)).mean((2, 3)))


def moved(module: nn.Module) -> nn.Module:
    """The module in float64, with running statistics that are not 0 and 1."""
    torch.manual_seed(1)
    module = module.double().train()
    for _ in range(3):
        module(torch.randn(8, 2, 6, 6, dtype=torch.float64) * 2 + 1)
    return module


@torch.no_grad()
def normalised_by(module: Net, reference: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Net.forward of x, each batch norm by the mean and variance that it has for the reference."""

    def norm(layer, ahead, x):
        mean, var = ahead.mean((0, 2, 3)), ahead.var((0, 2, 3), unbiased=False)
        by = (mean, var, layer.weight, layer.bias, False, 0.0, layer.eps)
        return F.batch_norm(ahead, *by), F.batch_norm(x, *by)

    both = norm(module.first, reference, x)
    both = norm(module.norm, *map(module.conv, both))
    both = [F.max_pool2d(F.relu(one), 2) for one in both]
    bent = norm(module.branch[1], *map(module.branch[0], both))
    return module.head((both[1] + bent[1]).mean((2, 3)))


@torch.no_grad()
def expected(module: Net, name: str, support: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """By torch alone."""
    if name == "single":
        together = (torch.cat([support, one[None]]) for one in x)
        return torch.stack([normalised_by(module, images, images)[-1] for images in together])
    if name == "frozen":
        return copy.deepcopy(module).eval()(x)
    return normalised_by(module, {"batch": x, "support": support}[name], x)


@pytest.fixture
def images() -> tuple[Batch, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(11, 2, 6, 6, dtype=torch.float64, generator=generator)
    return Batch(x[:6], torch.arange(6) % CLASSES), x[6:] * 1.5


@pytest.mark.parametrize("adapters", [False, True], ids=["module", "with adapters"])
@pytest.mark.parametrize("buffers", ["batch", "frozen"])
@pytest.mark.parametrize("name", POLICIES)
def test_torch_module_predicts_by_each_policy_as_torch_does(name, buffers, adapters, images):
    support, x = images
    module = moved(Net())
    model, params = neo.nn.from_torch(module, buffers=buffers)
    if adapters:
        start = params
        model = neo.nn.LoRA(model, "head.weight", rank=1)
        model.model.initial = "given"
        params = model.init(0)
        assert torch.equal(params["conv.weight"].data, start["conv.weight"].data)
    predict = policy(name)(Predictor.of_model(model, [params]), support)
    if name == "frozen" and buffers == "batch":
        with pytest.raises(
            ValueError, match=r"batch_norm='frozen'.* has none.* 'support', or .*model\.buffers=frozen"
        ):
            predict(x)
        return
    found = predict(x)
    torch.testing.assert_close(found, expected(module, name, support.x, x).detach(), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(predict(x), found, rtol=0, atol=0)  # the second call is made without verifying


def test_policies_are_for_what_an_algorithm_makes_of_a_model_too(images):
    """Prototypes are of the support set by its own statistics; the policy is for queries."""
    support, x = images
    module = moved(Net())
    model, params = neo.nn.from_torch(module, buffers="batch")
    predictor = ProtoNet(model).adapt(params, support, Step())
    features = normalised_by(module, support.x, support.x)
    centres = torch.stack([features[support.y == k].mean(0) for k in range(CLASSES)])
    found = policy("support")(predictor, support)(x)
    by_hand = -((expected(module, "support", support.x, x)[:, None] - centres) ** 2).sum(-1)
    torch.testing.assert_close(found, by_hand.detach(), rtol=1e-9, atol=1e-10)


def test_neo_s_own_nets_have_every_policy_but_frozen():
    model = neo.nn.Conv4(CLASSES, channels=2, size=8, hidden=4, blocks=2)
    params = model.init(0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 2, 8, 8, generator=generator)
    support = Batch(x[:6], torch.arange(6) % CLASSES)
    predictor = Predictor.of_model(model, [params])
    found = [policy(name)(predictor, support)(x[6:]) for name in ("batch", "single", "support")]
    assert all((one - other).abs().max() > 1e-3 for one, other in pairwise(found))
    with pytest.raises(
        ValueError, match="normalises by running statistics, and a batch norm of this model has none"
    ):
        policy("frozen")(predictor, support)(x[6:])


def test_running_statistics_that_an_algorithm_has_gathered_are_frozen_ones():
    model = neo.nn.Conv4(CLASSES, channels=2, size=8, hidden=4, blocks=2)
    learner = MAMLPlusPlus(model, inner_steps=1, running_statistics=True)
    params = learner.init(0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 2, 8, 8, generator=generator)
    support = Batch(x[:6], torch.arange(6) % CLASSES)
    predictor = learner.adapt(params, support, Step(state=learner.init_state(params)))
    found = policy("frozen")(predictor, support)(x[6:])
    assert torch.equal(found, predictor(x[6:]).data)


def test_module_that_runs_other_layers_on_other_inputs_is_refused(images):
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(72, CLASSES)

        def forward(self, x):
            return self.head((self.norm(x) if len(x) == 6 else self.norm(self.norm(x))).flatten(1))

    support, x = images
    model, params = neo.nn.from_torch(Sometimes().double(), buffers="batch", verify=False)
    with pytest.raises(ValueError, match="more batch norms than the 1 that were recorded"):
        policy("support")(Predictor.of_model(model, [params]), support)(x)


def test_queries_are_normalised_as_the_model_is_unless_it_is_said_otherwise():
    of_module = ["model=torch", "model.module=torch.nn.Identity", "model.buffers=frozen"]
    for overrides, word in (
        ([], "batch"),
        (of_module, "frozen"),
        ([*of_module, "evaluation.batch_norm=single"], "single"),
    ):
        experiment = Experiment(configs.composed("train", overrides))
        assert experiment.protocol()["batch_norm"] == word
    with pytest.raises(ValueError, match=r"unknown evaluation\.batch_norm='running'.*or 'frozen'"):
        policy("running")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.parametrize("name", ["single", "support"])
def test_resnet18_is_evaluated_by_every_policy(name):
    settings = ["model=resnet18", f"evaluation.batch_norm={name}", "task.ways=2", "task.queries=1"]
    experiment = Experiment(configs.composed("train", settings))
    found = experiment.expect_adaptation(experiment.start(), experiment.sampler("val"))
    assert torch.isfinite(found.losses).all()
