"""Learned updates against the matrix L ⊗ Rᵀ written out, and in torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from meta import KFO, MAML, Regression, meta_gradient
from neo import LiteTensor, pytree
from tasks import Batch, Task
from tests.meta.quadratic import BODY, SIZE, Tasks, flat

ALPHA, STEPS = 0.3, 2
MODEL = neo.nn.MLP(2, 5, 1)


def shaken(tree, scale: float = 0.3):
    """In float64, with noise."""
    generator = torch.Generator().manual_seed(1)
    return pytree.tree_map(
        lambda leaf: LiteTensor(
            leaf.data.double() + scale * torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        ),
        tree,
    )


def regression() -> Task:
    def draw(*shape: int, seed: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return Task(
        Batch(draw(2, 6, 2, seed=0), draw(2, 6, 1, seed=1)),
        Batch(draw(2, 4, 2, seed=2), draw(2, 4, 1, seed=3)),
    )


def mlp(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return F.linear(
        torch.relu(F.linear(x, w["linear0.weight"], w["linear0.bias"])),
        w["linear1.weight"],
        w["linear1.bias"],
    )


def in_torch(params: dict, tasks: Task, first_order: bool) -> tuple[torch.Tensor, dict, dict]:
    weights = {name: leaf.data.clone().requires_grad_() for name, leaf in params["params"].items()}
    maps = {
        name: [one.data.clone().requires_grad_() for one in parts] for name, parts in params["update"].items()
    }
    total = torch.zeros((), dtype=torch.float64)
    for task in tasks:
        at = weights
        for _ in range(STEPS):
            loss = F.mse_loss(mlp(at, task.support.x), task.support.y)
            found = torch.autograd.grad(loss, [*at.values()], create_graph=True)
            moved = {}
            for (name, weight), gradient in zip(at.items(), found, strict=True):
                left, right, bias = maps[name]
                given = gradient.detach() if first_order else gradient
                update = torch.kron(left, right.T.contiguous()) @ given.reshape(-1) + bias.reshape(-1)
                moved[name] = weight - ALPHA * update.reshape(weight.shape)
            at = moved
        total = total + F.mse_loss(mlp(at, task.query.x), task.query.y) / len(tasks)
    total.backward()
    return total.detach(), weights, maps


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
def test_meta_gradient_is_that_of_torch(first_order):
    learner = KFO(MODEL, inner_lr=ALPHA, inner_steps=STEPS, first_order=first_order, problem=Regression())
    params = shaken(learner.init(seed=0))
    loss, weights, maps = in_torch(params, regression(), first_order)
    found = meta_gradient(learner, params, regression())
    torch.testing.assert_close(found.loss.mean(), loss, rtol=1e-12, atol=0)
    for name, weight in weights.items():
        torch.testing.assert_close(found.gradient["params"][name].data, weight.grad, rtol=1e-9, atol=1e-11)
        for ours, theirs in zip(found.gradient["update"][name], maps[name], strict=True):
            torch.testing.assert_close(ours.data, theirs.grad, rtol=1e-9, atol=1e-11)


def test_quadratics_in_closed_form():
    """θ′ − c = (I − α M A)(θ − c) − α b, block by block; and the gradient by b is −α times that by θ′."""
    tasks = Tasks()
    learner = KFO(tasks.model, inner_lr=ALPHA / 10, problem=tasks.problem)
    params = {"params": tasks.params(), "update": shaken(learner.init(seed=0)["update"])}
    blocks = [params["update"][name] for name in ("body.theta", "head.theta")]
    matrix = torch.block_diag(*(left.data * right.data.item() for left, right, _ in blocks))
    shift = torch.cat([bias.data[:, 0] for _, _, bias in blocks])
    way = torch.eye(SIZE, dtype=torch.float64) - ALPHA / 10 * matrix @ tasks.A
    expected, of_bias = torch.zeros(SIZE, dtype=torch.float64), torch.zeros(SIZE, dtype=torch.float64)
    for c, q in tasks.tasks():
        residual = c + way @ (tasks.theta() - c) - ALPHA / 10 * shift - q
        expected += way.T @ residual / 2
        of_bias -= ALPHA / 10 * residual / 2
    found = meta_gradient(learner, params, tasks.batch()).gradient
    torch.testing.assert_close(flat(found["params"]), expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(
        found["update"]["body.theta"][2].data[:, 0], of_bias[:BODY], rtol=1e-11, atol=1e-12
    )


def test_begins_at_maml_with_a_map_for_each_tensor():
    model = neo.nn.Conv4(ways=3, hidden=4)
    params = KFO(model).init(seed=0)
    shapes = {name: [tuple(one.shape) for one in parts] for name, parts in params["update"].items()}
    assert shapes["conv1.weight"] == [(4, 4), (36, 36), (4, 36)]
    assert shapes["head.bias"] == [(3, 3), (1, 1), (3, 1)]
    learner, tasks = KFO(MODEL, problem=Regression()), regression()
    begin = shaken(learner.init(seed=0), 0.0)
    ours = meta_gradient(learner, begin, tasks).gradient["params"]
    maml = meta_gradient(MAML(MODEL, problem=Regression()), begin["params"], tasks).gradient
    for name in maml:
        torch.testing.assert_close(ours[name].data, maml[name].data, rtol=1e-12, atol=1e-14)
