"""Query sets with more images of some classes than of others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tasks
from tasks.unbalanced import drawn_counts
from tests.tasks.images import made

PROTOCOL = {"ways": 3, "shots": 1, "queries": 2, "seed": 0}


def data(each: int = 9) -> tasks.Images:
    found = made.images(side=6, counts={f"c{number}": each + number % 3 for number in range(12)})
    images, labels = made.flat(found)
    return tasks.Images(list(zip(images, labels, strict=True)), fractions=(0.5, 0.25, 0.25))


def test_support_sets_are_those_of_balanced_tasks_and_queries_add_up():
    source = data()
    sampler = source.sampler("train", **PROTOCOL, dirichlet=1)
    drawn, balanced = sampler.sample(4, 50), source.sampler("train", **PROTOCOL).sample(4, 50)
    assert torch.equal(drawn.support.x, balanced.support.x)
    assert torch.equal(drawn.support.y, balanced.support.y)
    assert torch.equal(drawn.classes, balanced.classes)
    assert drawn.query.y.shape == (50, 6)
    counts = torch.stack([(drawn.query.y == label).sum(1) for label in range(3)], 1)
    assert len({tuple(row) for row in counts.tolist()}) > 10
    for task, one, row in zip(drawn, balanced, counts.tolist(), strict=True):
        assert len(torch.unique(torch.cat([task.support.x, task.query.x]).flatten(1), dim=0)) == 9
        assert task.query.y.tolist() == sorted(task.query.y.tolist())
        for label in range(3):  # the first images of a class are those that a balanced task asks for
            shared = min(2, row[label])
            own, other = task.query.x[task.query.y == label], one.query.x[one.query.y == label]
            assert torch.equal(own[:shared], other[:shared])
    assert sampler.sample(4, [7])[0].checksum() == drawn[7].checksum() != sampler.sample(5, [7])[0].checksum()
    flipped = source.sampler("train", **PROTOCOL, dirichlet=1, flip=True, crop=1).sample(4, 50)
    assert torch.equal(flipped.query.y, drawn.query.y)


def test_shares_are_those_of_the_dirichlet_distribution():
    """Mean 1 / ways, variance (ways − 1) / (ways² (ways α + 1)); of many images a class, so that rounding is small."""
    source = data(each=80)
    for alpha in (1, 4):
        sampler = source.sampler("train", ways=3, shots=1, queries=20, seed=0, dirichlet=alpha)
        y = sampler.sample(0, 1500).query.y
        share = torch.stack([(y == label).double().mean(1) for label in range(3)], 1)
        torch.testing.assert_close(
            share.mean(0), torch.full((3,), 1 / 3, dtype=torch.float64), rtol=0.06, atol=0
        )
        expected = torch.full((3,), 2 / (9 * (3 * alpha + 1)), dtype=torch.float64)
        torch.testing.assert_close(share.var(0), expected, rtol=0.12, atol=0)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 9)), min_size=1, max_size=6), st.integers(0, 30))
def test_counts_add_up_within_the_room(pairs, total):
    shares, room = zip(*pairs, strict=True)
    if sum(room) < total:
        with pytest.raises(ValueError, match="are more than the"):
            drawn_counts(shares, total, room)
        return
    counts = drawn_counts(shares, total, room)
    assert sum(counts) == total
    assert all(0 <= count <= most for count, most in zip(counts, room, strict=True))
    if sum(shares) > 0 and min(room) >= total:  # room enough: within one image of the ideal
        assert all(
            abs(count - total * share / sum(shares)) < 1 + 1e-9
            for count, share in zip(counts, shares, strict=True)
        )


def test_settings_that_do_not_fit_are_refused():
    source = data()
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match=f"dirichlet={wrong} must be a whole number"):
            source.sampler("train", **PROTOCOL, dirichlet=wrong)
    with pytest.raises(ValueError, match="varied=true draws sizes of its own"):
        source.sampler("train", **PROTOCOL, dirichlet=2, varied=True)
