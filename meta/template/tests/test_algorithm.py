"""An oracle: with support loss a/2 ‖θ − c‖² and query loss ½ ‖θ − q‖², θᵢ − c = (1 − αa)ⁱ (θ − c)."""

import meta
import neo
import torch
from tasks import Batch, Task

from my_project.algorithm import MultiStepMAML

A, ALPHA, STEPS = 3.0, 0.1, 2


class Quadratic(meta.Supervised):
    """What is predicted is θ itself; the targets are c and q."""

    metric = meta.Metric("distance", "squared distance", higher_is_better=False)

    def inner_loss(self, prediction, y):
        return ((prediction - y[0]) ** 2).sum() * (A / 2)

    def loss(self, prediction, y):
        return ((prediction - y[0]) ** 2).sum() / 2

    def score(self, prediction, y):
        return (prediction - y[0]) ** 2


def test_meta_gradient_is_the_derivative_of_the_mean_loss_over_inner_steps():
    theta, c, q = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, 2.0], [0.5, -1.0], [0.0, 4.0]))
    task = Task(Batch(torch.zeros(1, 2), c[None]), Batch(torch.zeros(1, 2), q[None]))
    learner = MultiStepMAML(
        lambda params, x: params["theta"], inner_lr=ALPHA, inner_steps=STEPS, problem=Quadratic()
    )
    found = learner.task_gradient({"theta": neo.LiteTensor(theta)}, task, meta.Step())

    factors = [(1 - ALPHA * A) ** i for i in range(1, STEPS + 1)]  # at first order they would be 1
    expected = sum(factor * (c + factor * (theta - c) - q) for factor in factors) / STEPS
    assert torch.allclose(found.gradient["theta"].data, expected)
