"""Tasks of varied ways and shots."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks import Images
from tasks.varied import drawn_sizes
from tests.tasks.images import made

UNIFORM = st.floats(0, 1, exclude_max=True)


@given(
    st.lists(st.tuples(st.integers(2, 3000), UNIFORM), min_size=2, max_size=50), UNIFORM, st.integers(1, 15)
)
def test_sizes_are_within_the_bounds_of_the_paper(classes, beta, most_queries):
    counts, uniform = [count for count, _ in classes], [beta, *(u for _, u in classes)]
    shots, queries = drawn_sizes(counts, uniform, 1, most_queries)
    assert queries == min(most_queries, min(counts) // 2) >= 1
    assert all(1 <= k <= count - queries for k, count in zip(shots, counts, strict=True))
    assert sum(shots) <= max(500, len(counts))


def test_sizes_are_those_of_the_formula():
    counts, uniform = [20, 40, 400], [0.25, 0.5, 0.0, 0.75]
    shots, queries = drawn_sizes(counts, uniform, 1, 10)
    size = math.ceil(0.75 * (10 + 30 + 100))  # 105
    alpha = [math.log(0.5) + u * (math.log(2) - math.log(0.5)) for u in uniform[1:]]
    weights = [math.exp(a) * n for a, n in zip(alpha, counts, strict=True)]
    expected = [math.floor(w / sum(weights) * (size - 3)) + 1 for w in weights]
    assert queries == 10
    assert shots == [min(k, n - 10) for k, n in zip(expected, counts, strict=True)]


@pytest.fixture(scope="module")
def data() -> Images:
    counts = {f"class{i:02}": 4 + 3 * i for i in range(24)}
    found = made.images(4, counts=counts)
    return Images(
        [(one, name) for name, arrays in found.items() for one in arrays], fractions=(0.6, 0.2, 0.2)
    )


def test_tasks_differ_and_hold_every_image_once(data):
    sampler = data.sampler("train", ways=9, shots=1, queries=5, seed=0, varied=True)
    drawn = [task for iteration in range(20) for task in sampler.sample(iteration, 2)]
    ways = [int(task.support.y.max()) + 1 for task in drawn]
    assert {*ways} == {5, 6, 7, 8, 9}
    classes, _ = sampler.draw(19, [1])
    assert classes.shape == (1, ways[-1])
    with pytest.raises(ValueError, match="one slot at a time"):
        sampler.draw(0, 2)
    for task, count in zip(drawn, ways, strict=True):
        support, query = task.support.y.bincount(), task.query.y.bincount()
        assert len(support) == count
        assert int(support.min()) >= 1
        assert query.unique().numel() == 1
        assert 2 <= int(query[0]) <= 5
        images = torch.cat([task.support.x, task.query.x])
        assert len(images.flatten(1).unique(dim=0)) == len(images)
    assert max(int(task.support.y.bincount().max()) for task in drawn) > 10


def test_task_is_a_function_of_its_slot_and_ways_are_at_most_the_classes(data):
    settings = {"ways": 50, "shots": 1, "queries": 10, "varied": True, "flip": True, "crop": 1}
    sampler = data.sampler("test", seed=1, **settings)
    assert sampler.ways == 5
    assert sampler.title == "5- to 5-way, varied shots"
    together = sampler.sample(3, 4)
    sampler.sample(4, 1)
    assert sampler.sample(3, [2])[0].checksum() == together[2].checksum()
    assert len({task.checksum() for task in together}) == 4
    assert data.sampler("test", seed=2, **settings).sample(3, 1)[0].checksum() != together[0].checksum()


def test_class_of_one_image_is_refused_by_name():
    found = made.images(4, counts={**dict.fromkeys("abcdefghi", 3), "j": 1})
    listed = [(one, name) for name, arrays in found.items() for one in arrays]
    data = Images(listed, fractions=(0.6, 0.2, 0.2))
    part = next(part for part, chosen in data.parts.items() if 9 in chosen.tolist())
    with pytest.raises(ValueError, match=r"need 2 images of each class, and j has 1"):
        data.sampler(part, ways=2, shots=1, queries=1, seed=0, varied=True)
