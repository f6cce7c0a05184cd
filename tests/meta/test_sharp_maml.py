"""Sharp-MAML against torch's double backward of the same two ascents, and against MAML."""

from __future__ import annotations

import math

import pytest
import torch

import meta
from meta import MAML, SharpMAML, meta_gradient
from tests.meta.quadratic import Tasks, flat

RATE, STEPS = 0.07, 2


def learner(problem: Tasks, inner: float, outer: float, **options: object) -> SharpMAML:
    settings = {"inner_lr": RATE, "inner_steps": STEPS, "problem": problem.problem, **options}
    return SharpMAML(problem.model, inner_radius=inner, outer_radius=outer, **settings)


def torchs(problem: Tasks, inner: float, outer: float, first_order: bool = False) -> tuple[torch.Tensor, ...]:
    """The mean over tasks of the meta-gradient, and each task's sharpness, θ as one vector."""

    def support_gradient(theta: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        loss = 0.5 * (theta - centre) @ problem.A @ (theta - centre)
        return torch.autograd.grad(loss, theta, create_graph=True)[0]

    def query_loss(theta: torch.Tensor, centre: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        for _ in range(STEPS):
            start = theta.detach().requires_grad_() if first_order else theta
            gradient = support_gradient(start, centre)
            gradient = support_gradient(start + inner * gradient / gradient.norm(), centre)
            theta = theta - RATE * (gradient.detach() if first_order else gradient)
        return 0.5 * ((theta - target) ** 2).sum()

    gradients, sharpness = [], []
    for centre, target in problem.tasks():
        theta = problem.theta().clone().requires_grad_()
        before = query_loss(theta, centre, target)
        (first,) = torch.autograd.grad(before, theta)
        worst = (theta.detach() + outer * first / first.norm()).requires_grad_()
        after = query_loss(worst, centre, target)
        gradients.append(torch.autograd.grad(after, worst)[0])
        sharpness.append((after - before).detach())
    return torch.stack(gradients).mean(0), torch.stack(sharpness)


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize(
    ("inner", "outer"), [(0.6, 0.0), (0.0, 0.4), (0.6, 0.4)], ids=["lower", "upper", "both"]
)
def test_meta_gradient_is_that_of_torch(inner, outer, first_order):
    problem = Tasks()
    ours = learner(problem, inner, outer, first_order=first_order)
    expected, sharpness = torchs(problem, inner, outer, first_order)
    for workers in (None, meta.Batched()):
        found = meta_gradient(ours, problem.params(), problem.batch(), workers=workers)
        torch.testing.assert_close(flat(found.gradient), expected, rtol=1e-10, atol=1e-11)
        if outer:
            torch.testing.assert_close(found.metrics["sharpness"], sharpness, rtol=1e-9, atol=1e-11)
            assert (found.metrics["sharpness"] > 0).all()  # of a convex F
    plain = meta_gradient(
        MAML(
            problem.model, inner_lr=RATE, inner_steps=STEPS, problem=problem.problem, first_order=first_order
        ),
        problem.params(),
        problem.batch(),
    )
    assert (flat(plain.gradient) - expected).norm() > 1e-2 * expected.norm()


def test_without_radii_it_is_maml_and_mixed_mode_has_the_same_numbers():
    problem = Tasks()
    maml = MAML(problem.model, inner_lr=RATE, inner_steps=STEPS, problem=problem.problem)
    plain, none = (
        flat(meta_gradient(one, problem.params(), problem.batch()).gradient)
        for one in (maml, learner(problem, 0.0, 0.0))
    )
    assert torch.equal(plain, none)
    reverse, mixed = (
        flat(
            meta_gradient(
                learner(problem, 0.6, 0.4, meta_gradient=mode), problem.params(), problem.batch()
            ).gradient
        )
        for mode in ("reverse", "mixed")
    )
    torch.testing.assert_close(mixed, reverse, rtol=1e-10, atol=1e-11)


def test_what_means_nothing_is_refused():
    problem = Tasks()
    for radius in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="SharpMAML: outer_radius must be a finite number of 0 or more"):
            learner(problem, 0.0, radius)
    with pytest.raises(ValueError, match=r"SharpMAML: meta_gradient='implicit' .* algorithm.inner_radius=0"):
        learner(problem, 0.1, 0.1, meta_gradient="implicit")
    learner(problem, 0.0, 0.1, meta_gradient="implicit")
