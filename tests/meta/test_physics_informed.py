"""The Korteweg-de Vries residual by closed forms, and its meta-gradient by torch double backward and differences."""

from __future__ import annotations

import optree
import pytest
import torch

import meta
from meta.physics_informed import PhysicsInformed, korteweg_de_vries
from neo import LiteTensor
from neo.nn import MLP, Siren
from tasks import KortewegDeVries, Task
from tasks.korteweg_de_vries import soliton

STEPS, RATE, WEIGHT = 2, 0.05, 3.0
MODEL = Siren(2, 4, 4, 1, frequency=1.5)


@pytest.fixture(scope="module")
def tasks() -> Task:
    drawn = KortewegDeVries().sampler("train", shots=5, values=3, queries=4, seed=0)
    return optree.tree_map(torch.Tensor.double, drawn.sample(0, 2))


@pytest.fixture(scope="module")
def params() -> dict[str, LiteTensor]:
    return {name: LiteTensor(leaf.data.double()) for name, leaf in MODEL.init(seed=0).items()}


def learner(**options) -> meta.MAML:
    problem = PhysicsInformed(korteweg_de_vries, weight=WEIGHT)
    return meta.MAML(MODEL, inner_lr=RATE, inner_steps=STEPS, problem=problem, **options)


def points(count: int) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4 - 2


def test_residual_of_a_soliton_is_zero_and_of_what_is_none_is_not():
    for speed, place in ((1.0, -2.0), (2.0, 0.5), (3.0, 0.0)):
        c, x0 = (torch.tensor(value, dtype=torch.float64) for value in (speed, place))
        residual = korteweg_de_vries(lambda x, c=c, x0=x0: soliton(c, x0, x), points(50))
        assert residual.shape == (50, 1)
        assert float(residual.data.abs().max()) < 1e-12
        twice = korteweg_de_vries(lambda x, c=c, x0=x0: 2 * soliton(c, x0, x), points(50))
        assert float(twice.data.abs().max()) > 0.1


def test_residual_of_a_polynomial_is_its_closed_form():
    x, t = points(50).split(1, 1)
    residual = korteweg_de_vries(lambda p: p[:, :1] ** 4 * p[:, 1:] ** 2, LiteTensor(points(50)))
    u, u_x = x**4 * t**2, 4 * x**3 * t**2
    torch.testing.assert_close(residual.data, 2 * t * x**4 + 6 * u * u_x + 24 * x * t**2)


def by_torch(params: dict[str, torch.Tensor], tasks: Task) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The mean query loss after adaptation and its gradient, every derivative by torch.autograd.grad."""

    def network(weights, x):
        for layer in range(3):
            x = x @ weights[f"linear{layer}.weight"].T + weights[f"linear{layer}.bias"]
            x = torch.sin(1.5 * x) if layer < 2 else x
        return x

    def gradient(out, x):
        return torch.autograd.grad(out.sum(), x, create_graph=True)[0]

    def support_loss(weights, support):
        place = support.points.clone().requires_grad_()
        u = network(weights, place)
        u_x, u_t = gradient(u, place).split(1, 1)
        u_xxx = gradient(gradient(u_x, place)[:, :1], place)[:, :1]
        known = (network(weights, support.known.x) - support.known.y).square().mean()
        return (u_t + 6 * u * u_x + u_xxx).square().mean() + WEIGHT * known

    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    losses = []
    for task in tasks:
        adapted = leaves
        for _ in range(STEPS):
            grads = torch.autograd.grad(
                support_loss(adapted, task.support), list(adapted.values()), create_graph=True
            )
            adapted = {n: w - RATE * g for (n, w), g in zip(adapted.items(), grads, strict=True)}
        losses.append((network(adapted, task.query.x) - task.query.y).square().mean())
    loss = torch.stack(losses).mean()
    return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.mark.parametrize("mode", ["reverse", "mixed"])
@pytest.mark.parametrize("workers", [None, meta.Batched()], ids=["alone", "batched"])
def test_meta_gradient_through_third_derivatives_is_torchs(mode, workers, params, tasks):
    found = meta.meta_gradient(learner(meta_gradient=mode), params, tasks, workers=workers)
    loss, gradient = by_torch({name: leaf.data for name, leaf in params.items()}, tasks)
    torch.testing.assert_close(found.loss.mean(), loss, rtol=1e-10, atol=0)
    for name, expected in gradient.items():
        torch.testing.assert_close(found.gradient[name].data, expected, rtol=1e-8, atol=1e-12)
    first = meta.meta_gradient(learner(first_order=True), params, tasks).gradient
    weight = "linear1.weight"
    assert float((first[weight].data - gradient[weight]).norm() / gradient[weight].norm()) > 1e-3


def test_meta_gradient_agrees_with_differences_of_the_loss(params, tasks):
    generator = torch.Generator().manual_seed(2)
    way = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in params.items()}
    found = meta.meta_gradient(learner(), params, tasks).gradient
    slope = sum(float((found[name].data * along).sum()) for name, along in way.items())

    def loss(step: float) -> float:
        moved = {name: LiteTensor(p.data + step * way[name]) for name, p in params.items()}
        return float(meta.meta_gradient(learner(), moved, tasks).loss.mean())

    h = 1e-4
    difference = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    assert slope == pytest.approx(difference, rel=1e-7)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match="weight must be finite and above 0"):
        PhysicsInformed(korteweg_de_vries, weight=weight)


@pytest.mark.parametrize("workers", [meta.Workers(1), meta.Batched(None)], ids=["one by one", "batched"])
def test_a_network_without_a_third_derivative_is_refused(tasks, workers):
    model = MLP(2, 8, 1)  # of ReLUs
    params = {name: LiteTensor(leaf.data.double()) for name, leaf in model.init(seed=0).items()}
    learner = meta.MAML(model, inner_lr=RATE, problem=PhysicsInformed(korteweg_de_vries))
    with pytest.raises(ValueError, match="third derivative in x is 0 at every point"):
        meta.meta_gradient(learner, params, tasks, workers=workers)
