"""MetaOptNet against projected gradient descent in torch, unrolled, and against what must hold at the solution."""

from __future__ import annotations

import math

import pytest
import torch

import meta
import neo
from meta import MetaOptNet, Step
from meta.support_vectors import free_variables, project_to_simplex
from tests.meta.test_protonet import FEATURES, INPUTS, LABELS, as_meta_batch, task

MODEL = neo.nn.MLP(INPUTS, 6, FEATURES)
BOUND, RIDGE, GAMMA = 0.4, 0.5, 3.0


def features(weights: dict, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.relu(x @ weights["linear0.weight"].T + weights["linear0.bias"])
    return hidden @ weights["linear1.weight"].T + weights["linear1.bias"]


def nearest(rows: torch.Tensor, total: float) -> torch.Tensor:
    """On the simplex: max(row − τ, 0), τ found by bisection; its derivative by the entries that stay above 0."""
    low, high = rows.detach().min(1).values - total, rows.detach().max(1).values
    for _ in range(50):
        middle = (low + high) / 2
        over = (rows.detach() - middle[:, None]).clamp(min=0).sum(1) > total
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    above = (rows.detach() > high[:, None]).double()
    shift = ((rows * above).sum(1) - total) / above.sum(1)
    return (rows - shift[:, None]) * above


def unrolled(z: torch.Tensor, classes: torch.Tensor, steps: int = 300) -> torch.Tensor:
    kernel = z @ z.T + RIDGE * torch.eye(len(z), dtype=torch.float64)
    rate = 1 / torch.linalg.eigvalsh(kernel.detach())[-1]
    s = torch.full_like(classes, BOUND / classes.shape[1])
    for _ in range(steps):
        s = nearest(s - rate * (classes - kernel @ (BOUND * classes - s)), BOUND)
    return BOUND * classes - s


@pytest.mark.parametrize("labels", [[1, 0, 2], LABELS], ids=["1-shot", "unequal shots"])
def test_meta_gradient_and_logits_are_those_of_torch(labels):
    learner = MetaOptNet(MODEL, bound=BOUND, ridge=RIDGE, scale=GAMMA)
    params = neo.pytree.tree_map(lambda leaf: neo.LiteTensor(leaf.data.double()), learner.init(seed=1))
    weights = {name: leaf.data.clone().requires_grad_() for name, leaf in params["params"].items()}
    gamma = params["scale"].data.clone().requires_grad_()
    tasks, losses, bounds = [task(labels=labels, seed=1), task(labels=labels, seed=2)], [], []
    for one in tasks:
        z, classes = features(weights, one.support.x), torch.nn.functional.one_hot(one.support.y).double()
        a = unrolled(z, classes)
        bounds.append((a - BOUND * classes).abs() < 1e-9)
        logits = gamma * features(weights, one.query.x) @ z.T @ a
        found = learner.adapt(params, one.support, Step())(one.query.x).data
        torch.testing.assert_close(found, logits.detach(), rtol=1e-8, atol=1e-9)
        losses.append(torch.nn.functional.cross_entropy(logits, one.query.y))
    assert any(of_task.any() for of_task in bounds)  # else nothing of the bounds is tested
    assert not all(of_task.all() for of_task in bounds)
    torch.stack(losses).mean().backward()
    found = meta.meta_gradient(learner, params, as_meta_batch(*tasks))
    torch.testing.assert_close(found.loss, torch.stack(losses).detach(), rtol=1e-9, atol=0)
    scale = max(weight.grad.abs().max() for weight in weights.values())
    for name, weight in weights.items():
        torch.testing.assert_close(
            found.gradient["params"][name].data, weight.grad, rtol=0, atol=1e-7 * scale
        )
    torch.testing.assert_close(found.gradient["scale"].data, gamma.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("examples", "ways", "width"), [(5, 5, 64), (25, 5, 64), (20, 4, 3), (12, 2, 2)])
@pytest.mark.parametrize("bound", [0.1, 100.0])
def test_no_better_point_is_allowed(examples, ways, width, bound):
    """Karush, Kuhn and Tucker's conditions, which for a convex problem are the solution, on features like a net's."""
    generator = torch.Generator().manual_seed(examples)
    z = torch.randn(examples, width, generator=generator, dtype=torch.float64).relu()
    classes = torch.nn.functional.one_hot(torch.arange(examples) % ways).double()
    kernel = z @ z.T + torch.eye(examples, dtype=torch.float64)
    free = free_variables(kernel, classes, bound)
    a = meta.algorithms.metaoptnet._at_solution(kernel, classes, bound, free)
    slack = bound * classes - a
    assert float(slack.min()) > -1e-9 * bound
    assert float(a.sum(1).abs().max()) < 1e-9 * bound
    slope = classes - kernel @ a
    least = slope.min(1, keepdim=True).values
    assert float((slack * (slope - least)).abs().max()) < 1e-7 * bound


def test_projection_is_the_nearest_point_of_the_simplex():
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = project_to_simplex(rows, 0.7)
    torch.testing.assert_close(found, nearest(rows, 0.7), rtol=0, atol=1e-12)
    assert float(found.min()) == 0
    torch.testing.assert_close(found.sum(1), torch.full((50,), 0.7, dtype=torch.float64))


def test_features_that_are_no_numbers_give_logits_that_are_none():
    """So that the loop says which step has diverged, and not a solver that it cannot solve."""
    kernel = torch.full((3, 3), math.nan)
    assert free_variables(kernel, torch.eye(3), BOUND).all()


def test_gradient_of_the_gradient_is_right():
    params = neo.LiteTensor(
        torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    )
    learner = MetaOptNet(MODEL, bound=BOUND, ridge=RIDGE)
    members, learned = torch.eye(3, dtype=torch.float64), {"scale": 1.0}

    def logits(z):
        return learner.fit(z, members, learned)(torch.ones(2, 4, dtype=torch.float64))

    neo.gradcheck(logits, (params,), order=2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bound": 0.0}, "bound must be a finite number greater than 0, got 0.0"),
        ({"ridge": -1.0}, "ridge must be a finite number greater than 0, got -1.0"),
        ({"scale": math.nan}, "scale must be a finite number, got nan"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"MetaOptNet: {sentence}"):
        MetaOptNet(MODEL, **options)
