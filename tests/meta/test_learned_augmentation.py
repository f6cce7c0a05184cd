"""Augmentation strengths by gradient: against torch and finite differences in float64, and a closed form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from meta import Batched, Hyperparameters, Regression, Step, meta_gradient
from meta.learned_augmentation import LearnedAugmentation, moved
from neo import LiteTensor, pytree
from tasks import Batch, Task
from tests.meta.test_training_rules import draw, in_double

MODEL = neo.nn.MLP(24, 5, 3)
ALL = {"translation": 0.8, "brightness": 0.3, "noise": 0.2}
IMAGES = Task(
    Batch(draw(2, 9, 1, 4, 6).sigmoid(), (torch.arange(18) % 3).reshape(2, 9)),
    Batch(draw(2, 8, 1, 4, 6, seed=1).sigmoid(), (torch.arange(16) % 3).reshape(2, 8)),
)  # of two tasks


def learner(augment, **options) -> Hyperparameters:
    return Hyperparameters(MODEL, inner_lr=0.3, inner_steps=3, decay=0.05, augment=augment, **options)


def test_an_image_is_moved_as_torch_samples_it():
    images, by = draw(5, 2, 4, 6), 1.5 * draw(5, 2, seed=1)
    # grid_sample has x before y, in units of half an image, of the places that are looked at.
    shift = -2 * by.flip(1) / torch.tensor([6.0, 4.0], dtype=torch.float64)
    theta = torch.cat([torch.eye(2, dtype=torch.float64).expand(5, 2, 2), shift[:, :, None]], 2)
    grid = F.affine_grid(theta, [5, 2, 4, 6], align_corners=False)
    torch.testing.assert_close(moved(images, by), F.grid_sample(images, grid, align_corners=False))
    whole = torch.tensor([[1.0, -2.0]], dtype=torch.float64).expand(5, 2)
    expected = torch.zeros_like(images)
    expected[:, :, 1:, :-2] = images[:, :, :-1, 2:]
    assert torch.equal(moved(images, whole), expected)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("meta_gradient_by", ["reverse", "mixed"])
def test_gradient_of_a_strength_is_the_difference_of_losses(kind, meta_gradient_by):
    rule = learner(ALL, meta_gradient=meta_gradient_by)
    params = in_double(rule.init(0))

    def at(shift: float):
        logs = {**params["log_strength"], kind: params["log_strength"][kind] + shift}
        return meta_gradient(rule, {**params, "log_strength": logs}, IMAGES, seed=4)

    slope = float((at(1e-5).loss - at(-1e-5).loss).mean()) / 2e-5
    assert abs(slope) > 1e-5
    assert float(at(0).gradient["log_strength"][kind].data) == pytest.approx(slope, rel=1e-6)


def test_one_noisy_step_of_least_squares_in_closed_form(monkeypatch):
    """w′ = w − α 2/n Xᵀ(Xw − y), X = x + s ε;  dw′/dlog s = −2 α s/n (εᵀ(Xw − y) + Xᵀ ε w)."""
    model = neo.nn.Linear(4, 1, bias=False)
    rule = Hyperparameters(
        model, inner_lr=0.1, inner_steps=1, decay=1e-30, augment={"noise": 0.5}, problem=Regression()
    )
    support, query = Batch(draw(7, 4), draw(7, 1, seed=1)), Batch(draw(5, 4, seed=2), draw(5, 1, seed=3))
    noise = draw(7, 4, seed=4)
    monkeypatch.setattr(LearnedAugmentation, "draw", lambda self, x: {"noise": noise})
    params = in_double(rule.init(0))
    found = rule.task_gradient(params, Task(support, query), Step(seed=3, training=True))
    rate, strength = params["log_rate"]["weight"].data.exp(), params["log_strength"]["noise"].data.exp()
    w = model.init(seed=3, dtype=torch.float64)["weight"].data.T
    x = support.x + strength * noise
    wrong = x @ w - support.y
    after = w - rate * 2 / 7 * x.T @ wrong
    towards = 2 / 5 * query.x.T @ (query.x @ after - query.y)
    by_strength = -rate * 2 / 7 * strength * (noise.T @ wrong + x.T @ (noise @ w))
    torch.testing.assert_close(
        found.gradient["log_strength"]["noise"].data, (towards * by_strength).sum(), rtol=1e-9, atol=1e-12
    )
    assert float(found.metrics["noise"]) == pytest.approx(0.5)


def test_a_task_is_a_function_of_its_seed_and_steps_are_drawn_apart():
    rule = learner(ALL)
    params = rule.init(0)
    tasks = pytree.tree_map(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf, IMAGES)
    one, again = (meta_gradient(rule, params, tasks, seed=4) for _ in range(2))
    assert torch.equal(one.loss, again.loss)
    assert all(
        torch.equal(a.data, b.data)
        for a, b in zip(pytree.leaves(one.gradient), pytree.leaves(again.gradient), strict=True)
    )
    other = meta_gradient(rule, params, tasks, seed=5)
    assert not torch.equal(one.loss, other.loss)
    with neo.nn.draws(1):
        first, second = (rule.augmentation.draw(tasks.support.x[0]) for _ in range(2))
    assert not any(torch.equal(first[kind], second[kind]) for kind in ALL)


def test_tasks_in_one_call_are_augmented_each_by_draws_of_its_own():
    rule = learner({"noise": 0.2, "translation": 0.5}, shared_start=True)
    one = IMAGES[0]
    same = Task(*(Batch(torch.stack([s.x, s.x]), torch.stack([s.y, s.y])) for s in (one.support, one.query)))
    found = meta_gradient(rule, in_double(rule.init(0)), same, seed=4, workers=Batched(1))
    assert float(found.loss[0]) != float(found.loss[1])
    assert all(bool(leaf.data.isfinite().all()) for leaf in pytree.leaves(found.gradient))


def test_without_augmentation_nothing_is_drawn_and_meta_parameters_are_as_they_were():
    rule = learner({})
    assert set(rule.init(0)) == {"log_rate", "log_decay"}
    found = meta_gradient(rule, in_double(rule.init(0)), IMAGES, seed=4)
    assert found.metrics == {}


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ({"noice": 0.1}, "augment has 'noice'; choose from translation, brightness, noise"),
        ({"noise": 0.0}, "augment=noise: 0.0 is where a positive number is searched from"),
    ],
)
def test_what_is_no_strength_is_refused(augment, words):
    with pytest.raises(ValueError, match=words):
        learner(augment)


def test_inputs_that_are_no_images_are_not_moved():
    rule = learner({"translation": 1.0})
    flat = Batch(torch.zeros(3, 24), torch.arange(3))
    with pytest.raises(
        ValueError, match=r"images \(n, channels, height, width\); got \(3, 24\) torch.float32"
    ):
        rule.adapt(rule.init(0), flat, Step())
    assert isinstance(rule.init(0)["log_strength"]["translation"], LiteTensor)
