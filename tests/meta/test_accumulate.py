"""trainer.accumulate: the update of one large meta-batch, in the memory of a small one."""

from __future__ import annotations

import functools

import pytest
import torch

from meta.averaging import pieces
from meta.experiment import Experiment
from meta.planning.memory import Meter
from meta.trainer import Trainer
from neo import pytree
from neo.optim import sgd
from tests.meta import ranks as jobs
from tests.meta.ranks import run_ranks, values
from tests.meta.runs import train
from tests.meta.test_run import assert_same_run, tiny
from tests.meta.toy import Pull, TargetSampler


class Counting(TargetSampler):
    most = 0

    def sample(self, iteration, slots):
        self.most = max(self.most, len(range(slots) if isinstance(slots, int) else slots))
        return super().sample(iteration, slots)


@pytest.mark.parametrize(("meta_batch", "accumulate"), [(1, 3), (3, 2), (4, 4), (5, 3), (6, 2), (32, 3)])
def test_is_the_large_meta_batch_bit_for_bit_and_draws_no_more_than_the_small_one(meta_batch, accumulate):
    def last(sampler, **settings):
        trainer = Trainer(Pull(), sgd(0.5), iterations=3, **settings)
        *_, (state, found) = trainer.steps(sampler, trainer.start())
        return state.params["theta"].data, found.loss, found.score

    small, large = Counting(), Counting()
    accumulated = last(small, meta_batch=meta_batch, accumulate=accumulate)
    at_once = last(large, meta_batch=meta_batch * accumulate)
    assert all(torch.equal(one, other) for one, other in zip(accumulated, at_once, strict=True))
    assert small.most <= meta_batch < large.most == meta_batch * accumulate


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("slots", [range(1), range(12), range(4, 11), range(37)])
def test_pieces_are_the_slots_in_order(slots, most):
    found = pieces(slots, most)
    assert [slot for piece in found for slot in piece] == list(slots)
    assert all(len(piece) <= most and piece.start % len(piece) == 0 for piece in found)


def step_of(*overrides):
    experiment = Experiment(tiny(*overrides))
    state, found = next(experiment.trainer.steps(experiment.sampler("train"), experiment.start()))
    return pytree.leaves((state.params, state.state)), found.loss, found.gradient


@pytest.mark.parametrize("settings", [("workers=2",), ("algorithm=maml_plus_plus", "task.queries=4")])
def test_second_order_gradients_and_a_carried_state_are_those_of_the_large_meta_batch(settings):
    (accumulated, loss, _), (at_once, expected, _) = (
        step_of(*settings, "trainer.meta_batch=3", "trainer.accumulate=2"),
        step_of(*settings, "trainer.meta_batch=6"),
    )
    assert torch.equal(loss, expected)
    for one, other in zip(accumulated, at_once, strict=True):
        assert one == other if isinstance(one, int) else torch.equal(one.data, other.data)


@pytest.mark.slow
def test_tasks_in_one_call_take_the_memory_of_one_meta_batch_and_agree_to_rounding():
    taken, results = {}, {}
    for meta_batch, accumulate in ((4, 1), (4, 4), (16, 1)):
        sizes = (f"trainer.meta_batch={meta_batch}", f"trainer.accumulate={accumulate}")
        overrides = ("batched=true", "precision=float64", *sizes)
        results[meta_batch, accumulate] = step_of(*overrides)[1:]  # and what is made on first use
        experiment = Experiment(tiny(*overrides))
        steps = experiment.trainer.steps(experiment.sampler("train"), experiment.start())
        taken[meta_batch, accumulate] = Meter(experiment.device).taken(functools.partial(next, steps))
    assert taken[4, 4] < 1.1 * taken[4, 1] < 0.5 * taken[16, 1]
    for one, other in zip(*map(pytree.leaves, (results[4, 4], results[16, 1])), strict=True):
        torch.testing.assert_close(
            getattr(one, "data", one), getattr(other, "data", other), rtol=1e-9, atol=1e-12
        )


@pytest.mark.slow
def test_ranks_share_the_meta_batches_bit_for_bit(tmp_path):
    config = tiny("trainer.meta_batch=3", "trainer.accumulate=3")
    train(config, tmp_path / "alone")
    values(run_ranks(2, jobs.train_run, config, [tmp_path / "0", tmp_path / "1"]))
    assert_same_run(tmp_path / "alone", tmp_path / "0")
