"""Families of tasks that are a function of a generator."""

from __future__ import annotations

import pytest
import torch

from tasks import Batch, DataError, FunctionTasks, Task


def lines(generator: torch.Generator, points: int = 3, part: str = "none") -> Task:
    numbers = torch.rand(2 * points, 1, generator=generator) + ("train", "val", "test").index(part)
    return Task(Batch(numbers[:points], 2 * numbers[:points]), Batch(numbers[points:], 2 * numbers[points:]))


def test_task_is_a_function_of_seed_part_iteration_and_slot():
    source = FunctionTasks(lines)
    sampler = source.sampler("train", seed=3)
    together = sampler.sample(5, 4)
    torch.rand(3)  # what else is drawn does not matter
    assert source.sampler("train", seed=3).sample(5, [2])[0].checksum() == together[2].checksum()
    others = [source.sampler("train", seed=4).sample(5, 1), sampler.sample(6, 1), sampler.sample(5, [1])]
    assert len({together[0].checksum(), *(other[0].checksum() for other in others)}) == 4
    assert [int(source.sampler(part, seed=3).sample(0, 1).query.x.min()) for part in ("train", "val", "test")] == [
        0, 1, 2,
    ]  # fmt: skip


def test_options_are_arguments_and_part_of_what_runs_compare():
    source = FunctionTasks(lines, options={"points": 7})
    assert source.sampler("val", seed=0).sample(0, 2).support.x.shape == (2, 7, 1)
    assert source.describe()["checksum"] != FunctionTasks(lines).describe()["checksum"]
    with pytest.raises(ValueError, match="lines has no argument ponits; it takes generator, points, part"):
        FunctionTasks(lines, options={"ponits": 7})


def ragged(generator: torch.Generator) -> Task:
    n = int(torch.randint(1, 100, (), generator=generator))
    return Task(Batch(torch.zeros(n, 1), torch.zeros(n, 1)), Batch(torch.zeros(2, 1), torch.zeros(2, 1)))


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda generator: None, "gave NoneType; expected one tasks.Task"),
        (lambda generator: stacked(generator), "gave a meta-batch"),
        (ragged, "the tasks of a meta-batch must have one shape, and ragged gave"),
    ],
)
def test_what_is_no_task_is_refused(function, sentence):
    with pytest.raises(ValueError, match=sentence):
        FunctionTasks(function).sampler("train", seed=0).sample(0, 8)


def stacked(generator: torch.Generator) -> Task:
    zeros = torch.zeros(2, 3, 1)
    return Task(Batch(zeros, zeros), Batch(zeros, zeros))


def test_what_is_no_function_is_refused():
    with pytest.raises(DataError, match=r"expected a function .*, got str"):
        FunctionTasks("lines")
