"""Families of tasks that are drawn from streams: functions of where a task stands, and what each says it is."""

from __future__ import annotations

import math

import optree
import pytest
import torch

from tasks import Completion, Glyphs, Harmonic, KortewegDeVries, Lines, Quadratics, TaskSampler, TaskSource

GLYPHS = Glyphs(alphabets=4, characters=3)
FAMILIES = {
    "lines": (Lines(), {"shots": 6, "queries": 5}),
    "quadratics": (Quadratics(dims=3, rows=4), {}),
    "harmonic": (Harmonic(), {"shots": 6, "queries": 5}),
    "completion": (Completion(GLYPHS), {"shots": 50, "queries": 60}),
    "korteweg_de_vries": (KortewegDeVries(), {"shots": 6, "values": 3, "queries": 5}),
}


@pytest.fixture(params=FAMILIES)
def family(request) -> tuple[TaskSource, dict]:
    return FAMILIES[request.param]


def test_task_is_a_function_of_iteration_and_slot_alone(family):
    source, sizes = family
    drawn: TaskSampler = source.sampler("val", seed=0, **sizes)
    together, alone = drawn.sample(9, 6), drawn.sample(9, [4])
    for ours, theirs in zip(optree.tree_leaves(together), optree.tree_leaves(alone), strict=True):
        assert torch.equal(ours[4], theirs[0])
    first = source.sampler("val", seed=0, **sizes).sample(9, 1)[0]
    for other in (
        source.sampler("test", seed=0, **sizes).sample(9, 1),
        source.sampler("val", seed=1, **sizes).sample(9, 1),
        drawn.sample(8, 1),
        drawn.sample(9, [1]),
    ):
        assert first.checksum() != other[0].checksum()
    assert len({task.checksum() for task in drawn.sample(0, 50)}) == 50


def test_family_is_described_and_refuses_what_it_cannot_draw(family):
    source, sizes = family
    about = source.describe()
    assert (about["dataset"], about["split"]) == (source.name, source.split)
    assert len(about["checksum"]) == 64
    for part, changes, sentence in (
        ("dev", {}, "unknown part 'dev'"),
        ("val", {"shots": 0}, "shots=0 is too small"),
        ("val", {"values": 0}, "values=0 is too small"),
    ):
        if changes.keys() <= sizes.keys():
            with pytest.raises(ValueError, match=sentence):
                source.sampler(part, seed=0, **sizes | changes)


@pytest.mark.parametrize(
    "drawn",
    [
        Lines().sampler("test", shots=1, queries=50, seed=0),
        Quadratics(dims=2, rows=50).sampler("test", seed=0),
        Harmonic().sampler("test", shots=1, queries=50, seed=0),
        KortewegDeVries().sampler("test", shots=1, values=1, queries=50, seed=0),
    ],
    ids=["lines", "quadratics", "harmonic", "korteweg_de_vries"],
)
def test_chance_is_the_error_of_predicting_zero(drawn):
    squares = drawn.sample(0, 4000).query.y[..., 0].square().mean(1)
    error = 5 * float(squares.std()) / math.sqrt(len(squares))
    assert drawn.chance == pytest.approx(float(squares.mean()), abs=error)


def test_lines_are_straight_and_some_support_points_are_shifted():
    task = Lines(outliers=0.3, shift=5.0).sampler("train", shots=200, queries=10, seed=0).sample(0, 20)
    x, y = task.query.x[..., 0].double(), task.query.y[..., 0].double()
    slope = (y[:, 1] - y[:, 0]) / (x[:, 1] - x[:, 0])
    offset = y[:, 0] - slope * x[:, 0]
    torch.testing.assert_close(y, slope[:, None] * x + offset[:, None], atol=1e-4, rtol=0)
    off = task.support.y[..., 0] - (slope[:, None] * task.support.x[..., 0] + offset[:, None])
    wrong = off.abs() > 1e-3
    torch.testing.assert_close(off[wrong], torch.full_like(off[wrong], 5.0), atol=1e-3, rtol=0)
    # 4000 points: within five standard errors.
    assert float(wrong.double().mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 4000))
    with pytest.raises(ValueError, match=r"outliers must be a fraction .* got 1\.5"):
        Lines(outliers=1.5)


def test_quadratics_are_normal_and_judged_by_what_they_are_descended_on():
    task = Quadratics(dims=10, rows=10).sampler("train", seed=0).sample(0, 300)
    numbers = torch.cat([task.support.x, task.support.y], -1).flatten().double()
    assert float(numbers.mean()) == pytest.approx(0, abs=5 / math.sqrt(len(numbers)))
    for power, moment, spread in ((2, 1, 2), (4, 3, 96)):
        assert float((numbers**power).mean()) == pytest.approx(
            moment, abs=5 * math.sqrt(spread / len(numbers))
        )
    assert torch.equal(task.support.x, task.query.x)
    assert torch.equal(task.support.y, task.query.y)


def test_points_lie_on_the_harmonic_of_their_task():
    drawn = Harmonic().sampler("train", shots=5, queries=7, seed=0)
    frequency, amplitudes, phases = (numbers.double() for numbers in drawn.draw(3, 10))
    task = drawn.sample(3, 10)
    for batch in (task.support, task.query):
        for slot in range(10):
            (w,), (a, c), (b, d) = (n[slot].flatten().tolist() for n in (frequency, amplitudes, phases))
            expected = [
                a * math.sin(w * x + b) + c * math.sin(2 * w * x + d)
                for x in batch.x[slot].flatten().tolist()
            ]
            assert batch.y[slot].flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_known_values_are_of_the_start_and_the_ends_of_their_soliton():
    drawn = KortewegDeVries().sampler("train", shots=40, values=30, queries=20, seed=0)
    speed, place = (numbers.double() for numbers in drawn.draw(3, 10))
    task = drawn.sample(3, 10)
    assert task.support.points.shape == (10, 40, 2)
    for batch in (task.support.known, task.query):
        x, t = batch.x.double().unbind(-1)
        # Another form of the soliton: c/2 (1 − tanh²).
        expected = speed / 2 * (1 - torch.tanh(speed.sqrt() / 2 * (x - speed * t - place)) ** 2)
        torch.testing.assert_close(batch.y[..., 0].double(), expected, atol=1e-5, rtol=0)
    start, left, right = task.support.known.x.split(30, 1)
    assert bool((start[..., 1] == 0).all())
    assert bool((left[..., 0] == -4).all())
    assert bool((right[..., 0] == 4).all())
    inside = torch.cat([task.support.points, task.query.x, left, right], 1)
    assert bool((inside[..., 0].abs() <= 4).all())
    assert float(task.support.points[..., 0].max()) > 3.5
    assert 0 <= float(inside[..., 1].min()) < 0.1 < 0.9 < float(inside[..., 1].max()) <= 1
    assert torch.equal(task[3].support.points, task.support[3].points)


def test_pixels_of_a_completion_are_those_of_an_image_of_its_part():
    drawn = Completion(GLYPHS).sampler("test", shots=100, queries=None, seed=0)
    assert (drawn.shots, drawn.queries, drawn.pixels) == (100, 684, 784)
    images = GLYPHS.images[GLYPHS.parts["test"]].reshape(-1, 28, 28)
    for task in drawn.sample(0, 5):
        x, y = torch.cat([task.support.x, task.query.x]), torch.cat([task.support.y, task.query.y])
        row, column = ((x + 1) * 13.5).round().long().unbind(1)
        assert len({*zip(row.tolist(), column.tolist(), strict=True)}) == 784
        image = torch.zeros(28, 28).index_put((row, column), y[:, 0])
        assert bool(((image * 255).round().to(torch.uint8) == images).flatten(1).all(1).any())


def test_whole_images_are_fitted_and_judged_by_the_same_pixels():
    drawn = Completion(GLYPHS).sampler("test", shots=None, queries=None, seed=0)
    task = drawn.sample(0, 2)
    assert task.support.x.shape == (2, 784, 2)
    assert torch.equal(task.support.y, task.query.y)
    with pytest.raises(ValueError, match="shots=700 and queries=100 are more than the 784 pixels"):
        Completion(GLYPHS).sampler("test", shots=700, queries=100, seed=0)
