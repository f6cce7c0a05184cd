"""Tasks on threads: the same numbers, in the same order, whatever the number of threads."""

from __future__ import annotations

import pickle
import threading

import pytest
import torch

import neo
from meta import MAML, evaluate
from meta.parallel import Workers
from tasks import Glyphs


@pytest.fixture(scope="module")
def sampler():
    return Glyphs(alphabets=4, characters=6).sampler("train", ways=5, shots=1, queries=2, seed=0)


@pytest.mark.parametrize("count", [2, 3])
def test_meta_gradient_is_bit_for_bit_the_same_on_any_number_of_threads(sampler, count: int) -> None:
    model = neo.nn.Conv4(ways=5, hidden=8)
    params, batch = model.init(seed=0), sampler.sample(0, 7)
    alone = MAML(model, workers=1).meta_gradient(params, batch)
    together = MAML(model, workers=count).meta_gradient(params, batch)
    assert torch.equal(alone.loss, together.loss)
    assert torch.equal(alone.score, together.score)
    for name, gradient in alone.gradient.items():
        assert torch.equal(gradient.data, together.gradient[name].data)


def test_evaluation_is_the_same_on_any_number_of_threads(sampler) -> None:
    model = neo.nn.Conv4(ways=5, hidden=4)
    params = model.init(seed=0)
    alone, together = (evaluate(MAML(model, workers=count), params, sampler, 6, batch=4) for count in (1, 3))
    assert torch.equal(alone.losses, together.losses)


def test_tasks_run_on_several_threads_with_one_kernel_thread_each() -> None:
    meet = threading.Barrier(2, timeout=30)  # passed only if two items are under way at once

    def item(number: int) -> tuple[int, int]:
        meet.wait()
        return number, torch.get_num_threads()

    before = torch.get_num_threads()
    assert Workers(2).map(item, range(4)) == [(number, 1) for number in range(4)]
    assert torch.get_num_threads() == before


def test_first_exception_of_a_task_is_raised_and_leaves_workers_usable() -> None:
    workers = Workers(2)

    def item(number: int) -> int:
        if number == 1:
            raise ValueError("task 1 went wrong")
        return number

    with pytest.raises(ValueError, match="task 1 went wrong"):
        workers.map(item, range(4))
    assert workers.map(abs, [-1, -2]) == [1, 2]


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_one_by_one_while_the_caller_leaves_the_cores_to_the_tasks(count: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = [(result, torch.get_num_threads()) for result in Workers(count).each(abs, [-1, -2, -3])]
        assert seen == [(1, 1), (2, 1), (3, 1)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_no_count_runs_in_the_calling_thread() -> None:
    caller = threading.get_ident()
    assert Workers(None).map(lambda _: threading.get_ident(), range(2)) == [caller, caller]


def test_workers_travel_without_their_threads() -> None:
    workers = Workers(2)
    workers.map(abs, [1])
    assert pickle.loads(pickle.dumps(workers)).map(abs, [-3]) == [3]


def test_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 1.*got 0"):
        Workers(0)
