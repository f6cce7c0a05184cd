"""Reptile against its closed form on quadratics and against PyTorch's own optimisers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import neo
import tasks
from meta import Reptile, Step, TaskResult, meta_gradient
from meta.algorithms.reptile import minibatches
from tasks import Batch, Task
from tests.meta.quadratic import SIZE, Tasks, flat
from tests.meta.test_maml import random_tasks


class Whole(Reptile):
    """Reptile that takes every step on the support set, as in the paper's analysis (section 5)."""

    def task_gradient(self, params, task, step):
        loss, score = self.problem.query_loss(lambda x: self.model(params, x), task.query)
        trained = self.adapt(params, task.support, step).params
        return TaskResult({name: params[name] - trained[name] for name in params}, loss, score)


@pytest.mark.parametrize("steps", [2, 5])
def test_meta_gradient_matches_closed_form_on_quadratics(steps):
    """W = c + (I − αA)ᵏ (φ − c), so that φ − mean W = mean (I − (I − αA)ᵏ) (φ − c)."""
    problem, alpha = Tasks(), 0.07
    learner = Whole(problem.model, inner_lr=alpha, inner_steps=steps, problem=problem.problem)
    got = flat(meta_gradient(learner, problem.params(), problem.batch()).gradient)
    identity = torch.eye(SIZE, dtype=torch.float64)
    way = torch.linalg.matrix_power(identity - alpha * problem.A, steps)
    expected = sum((identity - way) @ (problem.theta() - c) for c, _ in problem.tasks()) / 2
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (neo.optim.sgd(0.1), lambda params: torch.optim.SGD(params, 0.1)),
        (neo.optim.adam(1e-2, (0.0, 0.999)), lambda params: torch.optim.Adam(params, 1e-2, (0.0, 0.999))),
    ],
    ids=["sgd", "adam"],
)
def test_meta_gradient_matches_training_in_torch(ours, theirs):
    """A perceptron trained on each task by PyTorch, on the same minibatches."""
    model = neo.nn.MLP(16, 8, 3)
    params = model.init(seed=2, dtype=torch.float64)
    batch = random_tasks(3, 2, torch.float64, size=4)
    result = meta_gradient(Reptile(model, inner_steps=3, inner_optimizer=ours), params, batch)

    ends, losses = [], []
    for task in batch:
        weights = {name: value.data.clone().requires_grad_() for name, value in params.items()}
        optimizer = theirs(list(weights.values()))
        for step in range(3):
            x = torch.cat([task.support.x[step::3], task.query.x[step::3]]).flatten(1)
            y = torch.cat([task.support.y[step::3], task.query.y[step::3]])
            hidden = torch.relu(F.linear(x, weights["linear0.weight"], weights["linear0.bias"]))
            loss = F.cross_entropy(F.linear(hidden, weights["linear1.weight"], weights["linear1.bias"]), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append({name: value.detach() for name, value in weights.items()})
        losses.append(loss.detach())
    for name, value in params.items():
        expected = value.data - sum(end[name] for end in ends) / len(ends)
        torch.testing.assert_close(result.gradient[name].data, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.loss, torch.stack(losses), rtol=1e-12, atol=1e-12)


def test_outer_sgd_moves_by_epsilon_towards_the_trained_parameters():
    problem = Tasks(tasks=1)
    learner = Whole(problem.model, inner_lr=0.05, inner_steps=2, problem=problem.problem)
    params, epsilon = problem.params(), 0.3
    step = neo.optim.sgd(epsilon).step
    after, _ = step(params, meta_gradient(learner, params, problem.batch()).gradient, None)
    trained = flat(learner.adapt(params, problem.batch()[0].support, Step()).params)
    torch.testing.assert_close(flat(after), problem.theta() + epsilon * (trained - problem.theta()))


def test_minibatches_share_no_example_and_hold_all_of_them():
    examples = torch.arange(5 + 75, dtype=torch.float32)[:, None]
    labels = torch.cat([torch.arange(5), torch.arange(5).repeat_interleave(15)])
    task = Task(Batch(examples[:5], labels[:5]), Batch(examples[5:], labels[5:]))
    parts = minibatches(task, 5)
    assert sorted(torch.cat([part.x for part in parts])[:, 0].tolist()) == list(range(80))
    for part in parts:
        assert part.y.bincount(minlength=5).min() >= 3


def test_more_steps_than_examples_are_refused():
    task = random_tasks(3, 1, torch.float32)[0]
    with pytest.raises(ValueError, match=r"inner_steps=10 minibatches are more than a task of 12 examples"):
        minibatches(task, 10)


def test_tasks_without_labels_are_refused():
    task = tasks.Bandit().sampler("train", shots=2, queries=2, seed=0).sample(0, 1)[0]
    with pytest.raises(ValueError, match=r"Reptile: it learns from examples with labels.*got Arms"):
        minibatches(task, 2)


def test_one_inner_step_is_refused():
    with pytest.raises(ValueError, match="inner_steps must be 2 or more, got 1"):
        Reptile(neo.nn.MLP(4, 2), inner_steps=1)
