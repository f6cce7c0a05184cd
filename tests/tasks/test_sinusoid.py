"""Sinusoids: what the paper says they are, and a pure function of where a task stands."""

from __future__ import annotations

import math

import pytest
import torch

from tasks import Sinusoid, TaskSampler, TaskSource


def sampler(part: str = "train", **changes):
    settings = {"shots": 5, "queries": 7, "seed": 0, **changes}
    return Sinusoid().sampler(part, **settings)


@pytest.mark.parametrize("frequency", [(1.0, 1.0), (0.8, 1.2)])
def test_points_lie_on_the_sinusoid_of_their_task(frequency):
    drawn = Sinusoid(frequency=frequency).sampler("train", shots=5, queries=7, seed=0)
    amplitude, phase_rad, omega = drawn.draw(3, 50)
    assert frequency[0] <= float(omega.min()) <= float(omega.max()) <= frequency[1]
    task = drawn.sample(3, 50)
    for batch in (task.support, task.query):
        expected = amplitude[:, None, None] * torch.sin(
            omega[:, None, None] * batch.x - phase_rad[:, None, None]
        )
        torch.testing.assert_close(batch.y, expected)


def test_ranges_are_those_of_the_paper_and_are_filled():
    drawn = sampler(queries=20)
    amplitude, phase_rad, _ = drawn.draw(0, 2000)
    x = drawn.sample(0, 2000).query.x
    for values, low, high in ((amplitude, 0.1, 5.0), (phase_rad, 0.0, math.pi), (x, -5.0, 5.0)):
        assert low <= float(values.min()) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < float(values.max()) <= high
        # The mean of 2000 or more uniform numbers, within five standard errors.
        assert float(values.mean()) == pytest.approx(
            (low + high) / 2, abs=5 * (high - low) / math.sqrt(12 * 2000)
        )


def test_shapes_are_those_of_a_meta_batch_of_regression_tasks():
    task = sampler().sample(0, 4)
    assert task.batched
    assert len(task) == 4
    assert task.support.x.shape == task.support.y.shape == (4, 5, 1)
    assert task[0].query.x.shape == task[0].query.y.shape == (7, 1)
    assert task.support.x.dtype == task.support.y.dtype == torch.float32


def test_task_is_a_function_of_iteration_and_slot_alone():
    drawn = sampler()
    together = drawn.sample(9, 6)
    drawn.sample(2, 1)
    alone = drawn.sample(9, [4])
    assert torch.equal(together[4].support.y, alone[0].support.y)
    assert torch.equal(together[4].query.x, alone[0].query.x)
    assert torch.equal(sampler().sample(torch.tensor(9), torch.tensor([4])).query.x, alone.query.x)


@pytest.mark.parametrize(
    "other",
    [
        lambda: sampler("val").sample(0, 3),
        lambda: sampler("test").sample(0, 3),
        lambda: sampler(seed=1).sample(0, 3),
        lambda: sampler().sample(1, 3),
        lambda: sampler().sample(0, [3, 4, 5]),
    ],
    ids=["val", "test", "seed", "iteration", "slots"],
)
def test_other_parts_seeds_iterations_and_slots_are_other_tasks(other):
    ours, theirs = sampler().sample(0, 3), other()
    assert not set(ours.query.x.flatten().tolist()) & set(theirs.query.x.flatten().tolist())


def test_support_and_query_points_differ():
    task = sampler(shots=50, queries=50).sample(0, 20)
    for one in task:
        assert not set(one.support.x.flatten().tolist()) & set(one.query.x.flatten().tolist())


@pytest.mark.parametrize(
    "ranges",
    [
        {},
        {"x": (0.0, 2.0), "phase_rad": (0.0, 1.0)},
        {"amplitude": (2.0, 2.0)},
        {"x": (0.0, 2.0), "frequency": (0.5, 1.5)},
    ],
)
def test_chance_is_the_error_of_predicting_zero(ranges):
    drawn = Sinusoid(**ranges).sampler("test", shots=1, queries=50, seed=0)
    squares = drawn.sample(0, 20_000).query.y[..., 0].square().mean(1)
    error = 5 * float(squares.std()) / math.sqrt(len(squares))
    assert drawn.chance == pytest.approx(float(squares.mean()), abs=error)


def test_sinusoid_is_a_task_source():
    source: TaskSource = Sinusoid()
    drawn: TaskSampler = source.sampler("train", seed=0, shots=10, queries=10)
    assert drawn.title == "10-shot"
    about = source.describe()
    assert (about["dataset"], about["split"]) == (source.name, source.split)
    assert about["checksum"] != Sinusoid(x=(0.0, 1.0)).describe()["checksum"]


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Sinusoid(amplitude=(5.0, 0.1)), r"amplitude=\[5\.0, 0\.1\] is not a range"),
        (lambda: Sinusoid(x=(0.0, math.inf)), "x=.* is not a range"),
        (lambda: Sinusoid(x=(0.0,)), "x=.* is not a range"),
        (lambda: sampler(shots=0), "shots=0 is too small"),
        (lambda: sampler(queries=1.5), r"queries=1\.5 must be an integer"),
        (lambda: sampler("dev"), "unknown part 'dev'"),
        (lambda: sampler().sample(-1, 1), "iteration=-1 is too small"),
        (lambda: sampler().sample(0, [0, -2]), "slot=-2 is too small"),
    ],
)
def test_values_out_of_range_are_refused_by_name(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_tasks_are_the_same_on_a_gpu():
    cpu, gpu = sampler().sample(2, 8), sampler(device="cuda").sample(2, 8)
    assert torch.equal(cpu.query.x, gpu.query.x.cpu())
    torch.testing.assert_close(cpu.query.y, gpu.query.y.cpu())
