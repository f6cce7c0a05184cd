"""Worlds to act in: what tasks are made of, and what happens in them."""

from __future__ import annotations

import math

import optree
import pytest
import torch

from tasks import Arms, Bandit, Batch, Navigation, PointMass, Task

FAMILIES = [Navigation(horizon=4), Bandit(arms=6)]


def worlds(task: Task) -> torch.Tensor:
    (tensor,) = optree.tree_leaves(task.support)
    return tensor


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_task_is_a_function_of_seed_part_iteration_and_slot(family):
    def drawn(part="train", seed=0, iteration=3, slots=8):
        return family.sampler(part, shots=2, queries=5, seed=seed).sample(iteration, slots)

    tasks = drawn()
    assert torch.equal(worlds(drawn(slots=[5]))[0], worlds(tasks[5]))
    assert len({task.checksum() for task in tasks}) == 8
    for other in (drawn("val"), drawn(seed=1), drawn(iteration=4)):
        assert not torch.equal(worlds(other), worlds(tasks))
    assert (len(tasks), tasks[0].support.episodes, tasks[0].query.episodes) == (8, 2, 5)
    assert torch.equal(*(optree.tree_leaves(part)[0] for part in (tasks[2].support, tasks[2].query)))


def test_point_goes_where_it_is_sent_at_a_bounded_speed():
    world = PointMass(torch.tensor([0.3, 0.0]), episodes=2, horizon=3)
    velocity = torch.tensor([[3.0, 0.0], [0.5, -0.5]])
    seen = world.run(lambda position: velocity)
    torch.testing.assert_close(seen.observations[:, 0, 0], torch.tensor([0.0, 0.1, 0.2]))
    torch.testing.assert_close(seen.rewards[:, 0], torch.tensor([-0.2, -0.1, 0.0]))
    torch.testing.assert_close(seen.rewards[0, 1], torch.tensor(-math.hypot(0.25, 0.05)))
    assert torch.equal(seen.actions[1], velocity)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_chance_is_what_ignorance_earns(family):
    tasks = family.sampler("train", shots=1, queries=50, seed=0).sample(0, 400)
    generator = torch.Generator().manual_seed(0)

    def act(seen):
        if family.name == "navigation":
            return torch.zeros_like(seen)
        return torch.randint(family.arms, (len(seen),), generator=generator)

    torch.manual_seed(0)
    returns = torch.stack([task.query.run(act).rewards.sum(0).mean() for task in tasks])
    assert abs(returns.mean() - family.chance) < 3 * returns.std() / 20


def test_arms_pay_with_their_probabilities_and_in_pairs():
    means = worlds(FAMILIES[1].sampler("test", shots=1, queries=1, seed=3).sample(0, 50))
    torch.testing.assert_close(means[:, 0::2] + means[:, 1::2], torch.ones(50, 3))
    torch.manual_seed(1)
    paid = (
        Arms(torch.tensor([0.2, 0.8]), 20_000)
        .run(lambda seen: torch.arange(20_000) % 2)
        .rewards.reshape(-1, 2)
    )
    torch.testing.assert_close(paid.mean(0), torch.tensor([0.2, 0.8]), atol=0.015, rtol=0)
    assert set(paid.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("world", "actions", "sentence"),
    [
        (
            PointMass(torch.zeros(2), 4, 1),
            torch.zeros(4, 3),
            r"PointMass: actions must be \(4, 2\), a velocity .* got \(4, 3\)",
        ),
        (
            Arms(torch.zeros(2), 4),
            torch.zeros(4, 1, dtype=torch.int64),
            r"Arms: actions must be \(4,\), an arm .* got \(4, 1\)",
        ),
    ],
)
def test_actions_of_the_wrong_shape_are_named(world, actions, sentence):
    with pytest.raises(ValueError, match=sentence):
        world.run(lambda seen: actions)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Navigation(horizon=0), "Navigation: horizon=0 must be an integer of 1 or more"),
        (lambda: Navigation(reach=math.inf), "Navigation: reach=inf must be a finite number above 0"),
        (lambda: Bandit(arms=3), "Bandit: arms=3 must be an even number of 2 or more"),
        (
            lambda: Bandit().sampler("valid", shots=1, queries=1, seed=0),
            "unknown part 'valid'; expected one of",
        ),
        (
            lambda: Bandit().sampler("val", shots=0, queries=1, seed=0),
            "shots=0 is too small; choose shots ≥ 1",
        ),
        (
            lambda: Task(Arms(torch.zeros(2, 4), 1), Arms(torch.zeros(4), 1)),
            "Task: support and query must hold the same number of tasks",
        ),
        (
            lambda: Task(Arms(torch.zeros(2, 4), 1), Batch(torch.zeros(3, 1, 1), torch.zeros(3, 1, 1))),
            "Task: support and query must hold the same number of tasks",
        ),
    ],
)
def test_bad_arguments_are_named(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_one_world_is_no_meta_batch():
    task = Bandit(arms=2).sampler("train", shots=1, queries=1, seed=0).sample(0, 1)[0]
    with pytest.raises(TypeError, match=r"Task: this is one task \(of Arms\(.*\), not a meta-batch"):
        len(task)
