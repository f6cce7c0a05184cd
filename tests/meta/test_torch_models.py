"""Torch modules as models of a run, from configuration files alone: meta-gradients beside torch's double backward."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from torch.nn.attention import SDPBackend, sdpa_kernel

import neo
from meta import MAML
from meta.experiment import Experiment
from meta.models import picked, torch_model
from neo.nn._torch.weights import built
from scripts._overrides import check, parse, searching
from tasks import Batch, Task
from tests.meta.torch_nets import HEAD, NETS, Net
from tests.scripts.test_commands import TINY, call

ALPHA = 0.1
TOLERANCE = 1e-8


def write(folder: Path, name: str, net: Net) -> None:
    (folder / "own" / "model").mkdir(parents=True)
    (folder / "own" / "model" / f"{name}.yaml").write_text(HEAD + net.model)
    if net.code:
        (folder / "nets.py").write_text(net.code)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one, and from which modules are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("nets", None)


def composed(*overrides: str, folders: tuple[Path, ...] = ()) -> DictConfig:
    """As scripts/train.py composes its configuration."""
    parsed = parse(overrides)
    checked = check("train", parsed, False, folders)
    with initialize_config_module("conf", version_base="1.3"):
        return compose("train", [*checked, *searching(parsed, folders)])


def task_for(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Task:
    def batch() -> Batch:
        x = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
        y = torch.arange(6) % 3
        if name == "policy":
            returns = torch.randn(6, generator=generator, dtype=torch.float64)
            return Batch(x[None], torch.stack([y.double(), returns], 1)[None])
        return Batch(x[None], y[None])

    return Task(batch(), batch())


def meta_gradient_by_torch(
    module: torch.nn.Module, params: dict[str, torch.Tensor], task: Task, model: Any, objective: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """∇ L_query(θ − α ∇ L_support(θ)) by torch's double backward. model: whose inputs and outputs are prepared alike."""

    def predict(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        if model.channels is not None:
            x = x.expand(-1, model.channels, -1, -1)
        return picked(torch.func.functional_call(module, params, (x,)), model.output)

    theta = {name: value.clone().requires_grad_() for name, value in params.items()}
    loss = objective.support_loss(predict(theta, task.support.x), task.support.y)
    gradients = torch.autograd.grad(
        loss, list(theta.values()), create_graph=True, allow_unused=True, materialize_grads=True
    )
    adapted = {n: p - ALPHA * g for (n, p), g in zip(theta.items(), gradients, strict=True)}
    value = objective.query_loss(predict(adapted, task.query.x), task.query.y)
    gradients = torch.autograd.grad(value, list(theta.values()), allow_unused=True, materialize_grads=True)
    return value.detach(), dict(zip(theta, gradients, strict=True))


class Hardsigmoid(torch.nn.Module):
    """relu6(x + 3) / 6, which torch can differentiate twice; its own hardsigmoid it cannot."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(x + 3) / 6


def differentiable_twice(module: torch.nn.Module) -> torch.nn.Module:
    """The module for torch's double backward, batch norms as model.buffers=batch has them."""
    for part in list(module.modules()):
        if isinstance(part, torch.nn.modules.batchnorm._NormBase):
            part.train()
        for name, child in part.named_children():
            if isinstance(child, torch.nn.Hardsigmoid):
                setattr(part, name, Hardsigmoid())
            if getattr(child, "scale_activation", None) is torch.nn.Hardsigmoid:
                child.scale_activation = Hardsigmoid()
    return module


def weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """torch._weight_norm by its formula: the second derivative of torch's own is wrong (gradgradcheck refuses it)."""
    dims = [d for d in range(v.ndim) if d != dim]
    return v * (g / torch.linalg.vector_norm(v, 2, dims, keepdim=True))


@pytest.fixture
def right_weight_norm(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Puts that formula in the place of torch's own."""

    def replace() -> None:
        for home in (torch, sys.modules["torch.nn.utils.weight_norm"]):
            monkeypatch.setattr(home, "_weight_norm", weight_norm)

    return replace


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", NETS)
def test_meta_gradient_of_a_configured_module_is_torchs(name, here, right_weight_norm):
    net = NETS[name]
    write(here, name, net)
    overrides = [f"model={name}", "model.dtype=float64", "task.ways=3", f"algorithm.inner_lr={ALPHA}", "workers=1", "seed=3"]
    experiment = Experiment(composed(*overrides, folders=(here / "own",)))
    if name == "policy":
        experiment.config.task.objective = {"_target_": "nets.Reinforce"}
    learner = experiment.learner
    assert isinstance(learner, MAML)
    params = learner.init(seed=3)
    batch = task_for(name, net.shape, torch.Generator().manual_seed(1))
    found = learner.meta_gradient(params, batch)

    module = differentiable_twice(built(learner.model.factory, seed=3))
    raw = {name: value.data for name, value in params.items()}
    right_weight_norm()
    with sdpa_kernel(SDPBackend.MATH):
        value, expected = meta_gradient_by_torch(module, raw, batch[0], learner.model, learner.objective)
    assert list(found.gradient) == list(expected)
    torch.testing.assert_close(found.loss[0], value, rtol=TOLERANCE, atol=TOLERANCE)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-6
    for key, gradient in expected.items():
        ours = found.gradient[key].data
        assert ours.dtype == torch.float64
        torch.testing.assert_close(
            ours, gradient, rtol=TOLERANCE, atol=TOLERANCE * max(largest, 1.0), msg=lambda m, key=key: f"{key}: {m}"
        )
