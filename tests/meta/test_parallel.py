"""Tasks on threads: the same numbers, in the same order, whatever the number of threads."""

from __future__ import annotations

import pickle
import threading

import optree
import pytest
import torch

import neo
from meta import ANIL, MAML, MetaSGD, Reptile, evaluate, meta_gradient
from meta.parallel import Batched, Workers
from tasks import Glyphs


@pytest.fixture(scope="module")
def sampler():
    return Glyphs(alphabets=4, characters=6).sampler("train", ways=5, shots=1, queries=2, seed=0)


@pytest.mark.parametrize("count", [2, 3])
def test_meta_gradient_is_bit_for_bit_the_same_on_any_number_of_threads(sampler, count: int) -> None:
    model = neo.nn.Conv4(ways=5, hidden=8)
    params, batch = model.init(seed=0), sampler.sample(0, 7)
    alone = meta_gradient(MAML(model), params, batch, workers=Workers(1))
    together = meta_gradient(MAML(model), params, batch, workers=Workers(count))
    assert torch.equal(alone.loss, together.loss)
    assert torch.equal(alone.score, together.score)
    for name, gradient in alone.gradient.items():
        assert torch.equal(gradient.data, together.gradient[name].data)


def test_tasks_on_other_threads_run_under_the_autocast_of_the_caller(sampler) -> None:
    model = neo.nn.Conv4(ways=5, hidden=4)
    params, batch = model.init(seed=0), sampler.sample(0, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        alone, together = (
            meta_gradient(MAML(model), params, batch, workers=Workers(count)) for count in (1, 2)
        )
    plain = meta_gradient(MAML(model), params, batch, workers=Workers(2))
    assert torch.equal(alone.loss, together.loss)
    assert not torch.equal(alone.loss, plain.loss)
    for name, gradient in alone.gradient.items():
        assert gradient.dtype is torch.float32
        assert torch.equal(gradient.data, together.gradient[name].data)


def test_evaluation_is_the_same_on_any_number_of_threads(sampler) -> None:
    model = neo.nn.Conv4(ways=5, hidden=4)
    params = model.init(seed=0)
    alone, together = (
        evaluate(MAML(model), params, sampler, 6, batch=4, workers=Workers(count)) for count in (1, 3)
    )
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


# --- all tasks in one call of each kernel ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "learner",
    [
        MAML(neo.nn.Conv4(ways=5, hidden=4), inner_steps=2),
        MAML(neo.nn.Conv4(ways=5, hidden=4, pool="max"), first_order=True),
        MAML(neo.nn.MLP(784, 8, 5), inner_optimizer=neo.optim.adam(0.1)),
        ANIL(neo.nn.Conv4(ways=5, hidden=4), adapt="head.*"),
        MetaSGD(neo.nn.MLP(784, 8, 5)),
        Reptile(neo.nn.MLP(784, 8, 5), inner_steps=3),
    ],
    ids=["maml", "fomaml_max_pool", "maml_adam", "anil", "meta_sgd", "reptile"],
)
def test_meta_gradient_of_all_tasks_at_once_is_that_of_each(sampler, learner) -> None:
    def double(leaf):
        if isinstance(leaf, neo.LiteTensor):
            return neo.LiteTensor(leaf.data.double())
        return leaf.double() if leaf.is_floating_point() else leaf

    params, batch = (optree.tree_map(double, tree) for tree in (learner.init(0), sampler.sample(0, 5)))
    if isinstance(learner.model, neo.nn.MLP):
        batch = optree.tree_map(lambda x: x.flatten(2) if x.ndim > 2 else x, batch)
    apart = meta_gradient(learner, params, batch, workers=Workers(1))
    at_once = meta_gradient(learner, params, batch, workers=Batched(1))
    assert at_once.loss.shape == at_once.score.shape == (5,)
    for one, other in zip(optree.tree_leaves(apart), optree.tree_leaves(at_once), strict=True):
        one, other = (leaf.data if isinstance(leaf, neo.LiteTensor) else leaf for leaf in (one, other))
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)


def test_batched_tasks_are_evaluated_one_by_one(sampler) -> None:
    learner = MAML(neo.nn.Conv4(ways=5, hidden=4))
    params = learner.init(0)
    expected = evaluate(learner, params, sampler, 3)
    assert torch.equal(evaluate(learner, params, sampler, 3, workers=Batched()).losses, expected.losses)


def test_a_path_that_depends_on_numbers_is_refused() -> None:
    with pytest.raises(RuntimeError):
        list(Batched().each(lambda x: x if x.sum() > 0 else -x, torch.ones(3, 2)))
