"""Bytes of tensors, counted at torch's allocator, and what a task takes of them against inner steps."""

from __future__ import annotations

import pytest
import torch

import meta
import meta.planning
import neo
import tasks
from meta.meta_batch import MetaBatch
from meta.parallel import Workers
from meta.planning import Row
from meta.planning.memory import Meter, peak_of_process
from neo.kernels import direct

KB = 1000


@pytest.fixture(scope="module")
def meter() -> Meter:
    return Meter(torch.device("cpu"))


def test_the_most_bytes_at_once_are_counted_exactly(meter):
    def two_at_once():
        first = torch.ones(250 * KB)  # 1 MB
        second = torch.ones(500 * KB)
        del first
        third = torch.ones(125 * KB)
        return second, third

    assert meter.taken(two_at_once) == pytest.approx(3000 * KB, abs=200)


def test_memory_kept_for_the_next_tensors_is_not_what_a_function_takes(meter):
    size = 1 << 20

    def one_after_the_other():
        for entries in range(
            size, size + 8 * 64, 64
        ):  # each of another size, so that none takes another's place
            direct.empty((entries,), torch.float32, False)

    one_after_the_other()
    assert meter.taken(one_after_the_other) == pytest.approx(4 * size, rel=0.01)


def test_the_limit_of_idle_memory_is_put_back():
    if direct.look is None:
        pytest.skip("neo.kernels._direct is not built for this torch")
    with direct.no_idle_memory():
        direct.empty((1 << 20,), torch.float32, False)
        assert direct._library.idle_bytes() == 0
    direct.empty((1 << 20,), torch.float32, False)
    assert direct._library.idle_bytes() >= 4 << 20


def test_the_peak_of_the_process_is_at_least_what_it_has_now(meter):
    assert peak_of_process() >= meter.resident() > 10**8


SAMPLER = tasks.Glyphs(alphabets=5, characters=5).sampler("train", ways=3, shots=2, queries=2, seed=0)


def taken(meter: Meter, estimator: str, steps: int, **settings: int) -> float:
    model = neo.nn.Conv4(ways=3, hidden=16)
    learner = meta.MAML(model, inner_lr=0.1, inner_steps=steps, meta_gradient=estimator, **settings)
    batch = MetaBatch(learner, (), workers=Workers(1))
    params, task = learner.init(seed=0), SAMPLER.sample(0, 1)
    return meter.taken(lambda: batch.gradient(params, task, 0, range(1), ()))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["reverse", "mixed", "first_order", "implicit"])
def test_what_a_task_takes_at_5_and_10_inner_steps_is_foretold_by_those_at_1_to_3(meter, estimator):
    row = Row(estimator, points={n: (taken(meter, estimator, n), 0.0) for n in (1, 2, 3)})
    for steps in (5, 10):
        assert row.bytes(steps) == pytest.approx(taken(meter, estimator, steps), rel=0.01)
    grows = row.per_step()
    parameters = 4 * sum(p.numel() for p in neo.nn.Conv4(ways=3, hidden=16).init(seed=0).values())
    if estimator == "mixed":
        draws = torch.get_rng_state().numel()  # of a gradient that is taken again
        assert grows == pytest.approx(parameters + draws, rel=0.02)
    elif estimator == "reverse":
        assert grows > 2 * parameters
    else:
        assert grows < 0.1 * parameters


@pytest.mark.slow
def test_segments_take_at_most_what_is_foretold(meter):
    from_three = meta.planning.Segments(
        "mixed",
        points={6: (taken(meter, "mixed", 6, mixed_segment=3), 0.0)},
        mixed=Row("mixed", points={n: (taken(meter, "mixed", n), 0.0) for n in (1, 2, 3)}),
    )
    for steps in (9, 16):
        seen = taken(meter, "mixed", steps, mixed_segment=round(steps**0.5))
        assert seen <= 1.001 * from_three.bytes(steps) <= 1.1 * seen
