"""Nothing in a meta-step waits for a number, so that a GPU is never kept from the next kernel by Python.

Tensors on torch's meta device have shapes and no numbers: whoever asks for one (.item(), `if` on a tensor, boolean
indexing) gets an error. What this cannot see are copies to and from a device.
"""

from __future__ import annotations

import optree
import pytest
import torch

import neo
from meta import ANIL, MAML, MetaSGD, Reptile
from meta.trainer import Trainer
from tasks import Batch, Task


class Shapes:
    """A sampler of tasks without numbers."""

    def sample(self, iteration: int, slots: int) -> Task:
        return Task(self.batch(slots, 5), self.batch(slots, 15))

    def batch(self, slots: int, examples: int) -> Batch:
        x = torch.empty(slots, examples, 1, 28, 28, device="meta")
        return Batch(x, torch.zeros(slots, examples, dtype=torch.int64, device="meta"))


class Waits(MAML):
    def task_gradient(self, params, task, step):
        found = super().task_gradient(params, task, step)
        assert float(found.loss) >= 0
        return found


def train(learner, optimizer):
    loop = Trainer(learner, optimizer, iterations=2, meta_batch=3)
    start = optree.tree_map(_without_numbers, loop.start())
    *_, (state, gradient) = loop.steps(Shapes(), start)
    assert gradient.loss.shape == gradient.score.shape == (3,)
    return state


def _without_numbers(leaf):
    return neo.LiteTensor(leaf.data.to("meta")) if isinstance(leaf, neo.LiteTensor) else leaf


@pytest.mark.parametrize("pool", ["stride", "max"])
def test_second_order_maml_with_adam(pool):
    learner = MAML(neo.nn.Conv4(ways=5, hidden=8, pool=pool), inner_steps=2)
    state = train(learner, neo.optim.adam(1e-3))
    assert all(leaf.device.type == "meta" for leaf in state.params.values())


@pytest.mark.parametrize(
    "learner",
    [
        MAML(neo.nn.Conv4(ways=5, hidden=8), first_order=True),
        ANIL(neo.nn.Conv4(ways=5, hidden=8), adapt="head.*"),
        MetaSGD(neo.nn.Conv4(ways=5, hidden=8)),
        Reptile(neo.nn.Conv4(ways=5, hidden=8)),
    ],
    ids=["fomaml", "anil", "meta_sgd", "reptile"],
)
def test_other_algorithms(learner):
    train(learner, neo.optim.sgd(0.1))


def test_a_step_that_does_wait_is_found():
    with pytest.raises(RuntimeError, match="meta tensors"):
        train(Waits(neo.nn.Conv4(ways=5, hidden=8)), neo.optim.sgd(0.1))
