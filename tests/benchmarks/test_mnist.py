"""The comparison of scripts/mnist.py is a fair one: same weights, same batches, same steps."""

from __future__ import annotations

import pytest
import torch

import neo
from benchmarks.mnist import SIZES, Side, neo_side, torch_side
from tasks.mnist import Digits


@pytest.fixture
def sides() -> tuple[Side, Side, Digits]:
    generator = torch.Generator().manual_seed(0)
    digits = Digits(
        torch.rand(200, 784, generator=generator), torch.randint(0, 10, (200,), generator=generator)
    )
    params = neo.nn.MLP(*SIZES).init(seed=3)
    return neo_side(params, digits, 0.1), torch_side(params, digits, 0.1), digits


def test_both_sides_start_from_the_same_weights(sides):
    ours, theirs, digits = sides
    torch.testing.assert_close(ours.predict(digits.x), theirs.predict(digits.x))


def test_both_sides_take_the_same_steps(sides):
    ours, theirs, digits = sides
    before = ours.predict(digits.x)
    batches = torch.arange(200).split(20)
    ours.train(batches)
    theirs.train(batches)
    torch.testing.assert_close(ours.predict(digits.x), theirs.predict(digits.x), rtol=1e-4, atol=1e-4)
    assert (ours.predict(digits.x) - before).abs().max() > 0.05
