"""The parts of a meta-gradient: as derived for a quadratic, adding up to the exact one everywhere else."""

from __future__ import annotations

import optree
import pytest
import torch

import meta
from meta import ANIL, MAML, MAMLPlusPlus, MetaSGD, Step, meta_gradient
from meta.estimators import Implicit
from meta.xray import split, windows_of
from meta.xray.split import Window, expect_unrolled
from neo import LiteTensor
from tests.meta.quadratic import BODY, SIZE, Tasks, flat
from tests.meta.test_estimators import CONV, LEARNERS, agree, image_tasks

EYE = torch.eye(SIZE, dtype=torch.float64)
RATE, STEPS = 0.05, 4


def of_task(learner, params, task, step=Step(iteration=7, seed=3, training=True)):  # noqa: B008 (frozen)
    """An estimator → the task's meta-gradient."""
    return lambda estimator: learner.with_estimator(estimator).task_gradient(params, task, step).gradient


def doubled(params):
    return optree.tree_map(lambda leaf: LiteTensor(leaf.data.double()), params)


def test_parts_are_the_closed_form_of_a_quadratic():
    """Curvature of step k: −α A λₖ₊₁, λₖ = (I − α A)ⁿ⁻ᵏ (θₙ − q)."""
    tasks = Tasks()
    learner = MAML(tasks.model, inner_lr=RATE, inner_steps=STEPS, problem=tasks.problem)
    found = split(
        of_task(learner, tasks.params(), tasks.batch()[0]), windows_of(STEPS, STEPS), learner.estimator
    )
    centre, target = tasks.tasks()[0]
    once = EYE - RATE * tasks.A
    slope = centre + torch.linalg.matrix_power(once, STEPS) @ (tasks.theta() - centre) - target
    torch.testing.assert_close(flat(found.first_order), slope)
    assert found.steps == [range(k, k + 1) for k in range(STEPS)]
    for k, part in enumerate(found.curvature):
        after = torch.linalg.matrix_power(once, STEPS - k - 1) @ slope
        expected = -RATE * tasks.A @ after
        torch.testing.assert_close(torch.cat([part["body.theta"], part["head.theta"]]), expected)


def test_body_that_does_not_adapt_gets_its_parts():
    """ANIL, body b and head h: step k gives b −α A_bh λₖ₊₁, and h −α A_hh λₖ₊₁; λₖ = (I − α A_hh)ⁿ⁻ᵏ (θₙ − q)_h."""
    tasks = Tasks()
    learner = ANIL(tasks.model, inner_lr=RATE, inner_steps=STEPS, problem=tasks.problem)
    found = split(of_task(learner, tasks.params(), tasks.batch()[0]), windows_of(STEPS, STEPS))
    centre, target = tasks.tasks()[0]
    body, head = slice(0, BODY), slice(BODY, SIZE)
    theta, a = tasks.theta(), tasks.A
    for _ in range(STEPS):
        theta[head] -= RATE * (a @ (theta - centre))[head]
    slope = theta - target
    once = EYE[head, head] - RATE * a[head, head]
    torch.testing.assert_close(flat(found.first_order), slope)
    for k, part in enumerate(found.curvature):
        after = torch.linalg.matrix_power(once, STEPS - k - 1) @ slope[head]
        torch.testing.assert_close(part["body.theta"], -RATE * a[body, head] @ after)
        torch.testing.assert_close(part["head.theta"], -RATE * a[head, head] @ after)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_add_up_to_the_exact_gradient(name, parts):
    """The exact one from forward over reverse, which shares no window with the split."""
    learner = LEARNERS[name]()
    params = doubled(learner.init(seed=0))
    task = image_tasks()[0]
    found = split(of_task(learner, params, task), windows_of(learner.inner.steps, parts), learner.estimator)
    total = optree.tree_map(
        lambda *leaves: sum(leaf.data for leaf in leaves), found.first_order, *found.curvature
    )
    exact = of_task(learner, params, task)(meta.Mixed())
    agree(optree.tree_map(LiteTensor, total), exact, 1e-10)
    assert len(found.curvature) == min(parts, learner.inner.steps)
    if learner.inner.steps:
        first = optree.tree_leaves(found.first_order)
        assert not all(
            torch.allclose(a.data, b.data) for a, b in zip(first, optree.tree_leaves(exact), strict=True)
        )


def test_split_by_steps_does_not_depend_on_how_they_are_grouped():
    learner = LEARNERS["maml with adam and clipping"]()
    gradient = of_task(learner, doubled(learner.init(seed=0)), image_tasks()[0])
    fine, coarse = split(gradient, [0, 1, 2, 3]), split(gradient, [0, 2, 3])
    assert coarse.steps == [range(0, 1), range(1, 3)]
    agree(
        optree.tree_map(LiteTensor, coarse.curvature[1]),
        optree.tree_map(lambda a, b: LiteTensor(a + b), *fine.curvature[1:]),
    )


def test_learned_rates_have_no_curvature_in_the_first_step():
    """A rate of step k meets the curvature of later steps alone: ∂F/∂αₖ = −λₖ₊₁ gₖ."""
    learner = MetaSGD(CONV, inner_lr=0.3, inner_steps=2)
    found = split(of_task(learner, doubled(learner.init(seed=0)), image_tasks()[0]), [0, 1, 2])
    early, late = (
        [leaf.abs().max() for leaf in optree.tree_leaves(part["rates"])] for part in found.curvature
    )
    assert max(early) < 1e-15
    assert max(late) > 1e-3


def test_a_proximal_loop_is_the_same_loop_in_every_window():
    """Of meta_gradient=implicit: exact through its own loop, in which θ₀ is pulled towards, too."""
    tasks, strength = Tasks(), 2.0
    learner = MAML(
        tasks.model, inner_lr=RATE, inner_steps=3, problem=tasks.problem, meta_gradient=Implicit(strength)
    )
    task = tasks.batch()[0]
    found = split(of_task(learner, tasks.params(), task), [0, 1, 2, 3], learner.estimator)
    centre, target = tasks.tasks()[0]
    start = theta = tasks.theta()
    jacobian = EYE
    for _ in range(3):
        theta = theta - RATE * (tasks.A @ (theta - centre) + strength * (theta - start))
        jacobian = (EYE - RATE * (tasks.A + strength * EYE)) @ jacobian + RATE * strength * EYE
    torch.testing.assert_close(flat(found.first_order), theta - target)
    torch.testing.assert_close(flat(found.exact), jacobian.T @ (theta - target))


def test_first_order_of_a_proximal_loop_leaves_out_the_pull_as_well():
    tasks = Tasks()
    learner = ANIL(tasks.model, inner_lr=RATE, inner_steps=2, problem=tasks.problem)
    task, step = tasks.batch()[0], Step()
    gradient = (
        learner.with_estimator(Window(0, Implicit(2.0))).task_gradient(tasks.params(), task, step).gradient
    )
    adapted = learner.with_estimator(Implicit(2.0)).adapt(tasks.params(), task.support, step).params
    _, target = tasks.tasks()[0]
    torch.testing.assert_close(flat(gradient), flat(adapted) - target)


@pytest.mark.parametrize(
    ("steps", "parts", "expected"),
    [(0, 5, [0]), (1, 5, [0, 1]), (3, 10, [0, 1, 2, 3]), (100, 4, [0, 25, 50, 75, 100]), (7, 2, [0, 4, 7])],
)
def test_windows(steps, parts, expected):
    assert windows_of(steps, parts) == expected


@pytest.mark.parametrize("parts", [0, -1, 1.5, True])
def test_number_of_parts_out_of_range_is_refused(parts):
    with pytest.raises(ValueError, match="parts must be an integer of 1 or more"):
        windows_of(3, parts)


@pytest.mark.parametrize("make", [meta.ProtoNet, meta.Reptile, meta.ESMAML])
def test_algorithm_without_a_loop_to_go_through_is_refused_by_name(make):
    with pytest.raises(ValueError, match=f"{make.__name__} has no meta-gradient.*algorithm=maml"):
        expect_unrolled(make(CONV))


def test_other_estimator_leaves_the_learner_as_it_is():
    learner = MAMLPlusPlus(CONV, first_order_iterations=50)
    other = learner.with_estimator(meta.Truncated(1))
    assert (learner.first_order_iterations, learner.estimator) == (50, meta.Reverse())
    assert isinstance(other, MAMLPlusPlus)
    params = learner.init(seed=0)
    mine, theirs = (meta_gradient(one, params, floats(image_tasks())) for one in (learner, other))
    with pytest.raises(AssertionError):  # annealing would have made both first order
        agree(mine.gradient, theirs.gradient, 1e-4)


def floats(tasks):
    return optree.tree_map(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf, tasks)


def test_running_statistics_refuse_an_estimator_that_runs_the_model_more_often():
    learner = MAMLPlusPlus(CONV, running_statistics=True)
    assert learner.with_estimator(meta.Truncated(1)).estimator == meta.Truncated(1)
    with pytest.raises(ValueError, match="meta_gradient='implicit' runs the model more often"):
        learner.with_estimator(Implicit())
