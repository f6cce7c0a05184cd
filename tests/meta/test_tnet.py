"""T-Nets against a network in torch with a linear map behind every layer, and in closed form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from meta import MAML, Step, TNet, meta_gradient
from neo import LiteTensor
from tests.meta.test_maml import random_tasks

ALPHA, STEPS, WAYS = 0.3, 2, 3
MODEL = neo.nn.Conv4(ways=WAYS, hidden=4, size=16, blocks=2)


def learned(learner: TNet) -> dict[str, LiteTensor]:
    """In float64, the maps no identities."""
    generator = torch.Generator().manual_seed(1)
    params = {}
    for name, leaf in learner.init(seed=0).items():
        noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        params[name] = LiteTensor(leaf.data.double() + 0.3 * noise * name.startswith("transform."))
    return params


def conv_net(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """With the maps as layers of their own, 1x1 convolutions and linear ones."""
    for i in range(2):
        x = F.conv2d(x, w[f"conv{i}.weight"], w[f"conv{i}.bias"], stride=2, padding=1)
        x = F.conv2d(x, w[f"transform.conv{i}"][:, :, None, None])
        x = torch.relu(F.batch_norm(x, None, None, w[f"norm{i}.weight"], w[f"norm{i}.bias"], training=True))
    return F.linear(F.linear(x.mean((2, 3)), w["head.weight"], w["head.bias"]), w["transform.head"])


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
def test_meta_gradient_is_that_of_torch(first_order):
    learner = TNet(MODEL, inner_lr=ALPHA, inner_steps=STEPS, first_order=first_order)
    params, tasks = learned(learner), random_tasks(WAYS, 2, torch.float64, size=16)
    weights = {name: leaf.data.clone().requires_grad_() for name, leaf in params.items()}
    adapting = [name for name in weights if not name.startswith("transform.")]
    total = torch.zeros((), dtype=torch.float64)
    for task in tasks:
        at = dict(weights)
        for _ in range(STEPS):
            loss = F.cross_entropy(conv_net(at, task.support.x), task.support.y)
            found = torch.autograd.grad(loss, [at[name] for name in adapting], create_graph=True)
            for name, gradient in zip(adapting, found, strict=True):
                at[name] = at[name] - ALPHA * (gradient.detach() if first_order else gradient)
        total = total + F.cross_entropy(conv_net(at, task.query.x), task.query.y) / len(tasks)
    total.backward()
    found = meta_gradient(learner, params, tasks)
    torch.testing.assert_close(found.loss.mean(), total.detach(), rtol=1e-10, atol=0)
    scale = max(weight.grad.abs().max() for weight in weights.values())
    for name, weight in weights.items():
        torch.testing.assert_close(found.gradient[name].data, weight.grad, rtol=0, atol=1e-9 * scale)


def test_begins_at_maml_and_no_map_adapts():
    learner, tasks = TNet(MODEL, inner_lr=ALPHA), random_tasks(WAYS, 2, torch.float64, size=16)
    params = {name: LiteTensor(leaf.data.double()) for name, leaf in learner.init(seed=0).items()}
    assert {n for n in params if n.startswith("transform.")} == {
        "transform.conv0",
        "transform.conv1",
        "transform.head",
    }
    ours = meta_gradient(learner, params, tasks).gradient
    plain = {name: leaf for name, leaf in params.items() if not name.startswith("transform.")}
    maml = meta_gradient(MAML(MODEL, inner_lr=ALPHA), plain, tasks).gradient
    scale = max(float(leaf.data.abs().max()) for leaf in maml.values())
    for name in maml:
        torch.testing.assert_close(ours[name].data, maml[name].data, rtol=0, atol=1e-12 * scale)
    adapted = learner.adapt(params, tasks[0].support, Step()).params
    assert all((adapted[name] is params[name]) == name.startswith("transform.") for name in params)


def test_step_is_along_the_metric():
    """One layer, squared error: T W′ = T W − α T Tᵀ ∂L/∂(T W)."""
    model = neo.nn.MLP(2, 3)
    learner = TNet(model, inner_lr=ALPHA)
    params = learned(learner)
    support = random_tasks(3, 1, torch.float64, size=2)[0].support
    x, y = support.x[:, 0, 0], support.y
    transform, weight = (params[name].data for name in ("transform.linear0", "linear0.weight"))
    whole = (transform @ weight).requires_grad_()
    bias = transform @ params["linear0.bias"].data
    F.cross_entropy(F.linear(x, whole, bias), y).backward()
    adapted = learner.adapt(params, type(support)(x, y), Step()).params["linear0.weight"].data
    expected = whole.detach() - ALPHA * transform @ transform.T @ whole.grad
    torch.testing.assert_close(transform @ adapted, expected, rtol=1e-11, atol=1e-13)


def test_layers_are_chosen_by_pattern_and_what_is_frozen_stays_so():
    learner = TNet(MODEL, at=["conv?"], freeze="norm*")
    params, support = learner.init(seed=0), random_tasks(WAYS, 1, torch.float32, size=16)[0].support
    assert [n for n in params if n.startswith("transform.")] == ["transform.conv0", "transform.conv1"]
    adapted = learner.adapt(params, support, Step()).params
    assert {n for n in params if adapted[n] is params[n]} == {
        n for n in params if n.startswith(("transform.", "norm"))
    }
    with pytest.raises(ValueError, match=r"in algorithm.at, 'cnov\*' matches no parameter \(nearest: conv"):
        TNet(MODEL, at="cnov*").init(seed=0)
    with pytest.raises(ValueError, match=r"TNet: at=\[\] must be a pattern"):
        TNet(MODEL, at=[])
