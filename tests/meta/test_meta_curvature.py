"""Meta-curvature against torch, with the matrix on the flattened gradient written out as a Kronecker product."""

from __future__ import annotations

import math
from functools import reduce

import pytest
import torch
import torch.nn.functional as F

import neo
from meta import MAML, MetaCurvature, Step, meta_gradient
from neo import LiteTensor, pytree
from tests.meta.test_maml import random_tasks

ALPHA, STEPS, WAYS = 0.3, 2, 3
MODEL = neo.nn.Conv4(ways=WAYS, hidden=4, size=16, blocks=2)


def learned(learner: MetaCurvature) -> dict:
    """Meta-parameters in float64, the matrices no identities."""
    generator = torch.Generator().manual_seed(1)

    def shaken(leaf: LiteTensor) -> LiteTensor:
        noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        return LiteTensor(leaf.data.double() + 0.3 * noise)

    params = learner.init(seed=0)
    return {
        "params": pytree.tree_map(lambda leaf: LiteTensor(leaf.data.double()), params["params"]),
        "curvature": pytree.tree_map(shaken, params["curvature"]),
    }


def conv_net(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for i in range(2):
        x = F.conv2d(x, w[f"conv{i}.weight"], w[f"conv{i}.bias"], stride=2, padding=1)
        x = torch.relu(F.batch_norm(x, None, None, w[f"norm{i}.weight"], w[f"norm{i}.bias"], training=True))
    return F.linear(x.mean((2, 3)), w["head.weight"], w["head.bias"])


def in_torch(params: dict, tasks, first_order: bool) -> tuple[torch.Tensor, dict, dict]:
    weights = {name: leaf.data.clone().requires_grad_() for name, leaf in params["params"].items()}
    curvature = {
        name: [one.data.clone().requires_grad_() for one in matrices]
        for name, matrices in params["curvature"].items()
    }
    total = torch.zeros((), dtype=torch.float64)
    for task in tasks:
        at = weights
        for _ in range(STEPS):
            loss = F.cross_entropy(conv_net(at, task.support.x), task.support.y)
            found = torch.autograd.grad(loss, [*at.values()], create_graph=True)
            gradients = dict(zip(at, (g.detach() if first_order else g for g in found), strict=True))
            at = {
                name: at[name]
                - ALPHA
                * (reduce(torch.kron, curvature[name]) @ gradients[name].reshape(-1)).reshape(at[name].shape)
                for name in at
            }
        total = total + F.cross_entropy(conv_net(at, task.query.x), task.query.y) / len(tasks)
    total.backward()
    return total.detach(), weights, curvature


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
def test_meta_gradient_is_that_of_torch(first_order):
    learner = MetaCurvature(MODEL, inner_lr=ALPHA, inner_steps=STEPS, first_order=first_order)
    params, tasks = learned(learner), random_tasks(WAYS, 2, torch.float64, size=16)
    loss, weights, curvature = in_torch(params, tasks, first_order)
    found = meta_gradient(learner, params, tasks)
    torch.testing.assert_close(found.loss.mean(), loss, rtol=1e-10, atol=0)
    scale = max(leaf.grad.abs().max() for leaf in weights.values())
    for name, weight in weights.items():
        torch.testing.assert_close(
            found.gradient["params"][name].data, weight.grad, rtol=0, atol=1e-9 * scale
        )
        for ours, theirs in zip(found.gradient["curvature"][name], curvature[name], strict=True):
            torch.testing.assert_close(ours.data, theirs.grad, rtol=0, atol=1e-9 * scale)


def test_begins_at_maml_with_a_matrix_for_each_mode():
    learner, tasks = MetaCurvature(MODEL, inner_lr=ALPHA), random_tasks(WAYS, 2, torch.float32, size=16)
    params = learner.init(seed=0)
    shapes = {name: [tuple(one.shape) for one in matrices] for name, matrices in params["curvature"].items()}
    assert shapes["conv1.weight"] == [(4, 4), (4, 4), (9, 9)]
    assert shapes["head.weight"] == [(WAYS, WAYS), (4, 4)]
    assert shapes["norm0.bias"] == [(4, 4)]
    assert math.prod(params["params"]["conv0.weight"].shape) == 4 * 1 * 9
    ours = meta_gradient(learner, params, tasks).gradient["params"]
    maml = meta_gradient(MAML(MODEL, inner_lr=ALPHA), params["params"], tasks).gradient
    for name in maml:
        torch.testing.assert_close(ours[name].data, maml[name].data, rtol=1e-4, atol=1e-6)


def test_only_what_adapts_has_matrices_and_the_inner_optimiser_is_anyones():
    learner = MetaCurvature(
        MODEL, adapt="head.*", inner_optimizer=neo.optim.adam(0.01), inner_clip=1.0, inner_steps=2
    )
    params, tasks = learner.init(seed=0), random_tasks(WAYS, 1, torch.float32, size=16)
    assert [*params["curvature"]] == ["head.weight", "head.bias"]
    adapted = learner.adapt(params, tasks[0].support, Step()).params
    assert {n for n in adapted if adapted[n] is not params["params"][n]} == {"head.weight", "head.bias"}
    gradient = meta_gradient(learner, params, tasks).gradient["curvature"]
    assert all(leaf.data.any() for leaf in pytree.leaves(gradient))


def test_gradients_are_clipped_before_they_are_transformed():
    """Twice the identity doubles a clipped step; clipping the transformed gradient would undo it."""
    tasks = random_tasks(WAYS, 1, torch.float32, size=16)

    def step(factor: float) -> float:
        learner = MetaCurvature(MODEL, inner_clip=1e-3, inner_lr=1.0, adapt="head.bias")
        params = learner.init(seed=0)
        params["curvature"] = pytree.tree_map(lambda leaf: leaf * factor, params["curvature"])
        adapted = learner.adapt(params, tasks[0].support, Step()).params["head.bias"]
        return float((adapted - params["params"]["head.bias"]).norm())

    assert step(1.0) == pytest.approx(1e-3, rel=1e-2)
    assert step(2.0) == pytest.approx(2e-3, rel=1e-2)
