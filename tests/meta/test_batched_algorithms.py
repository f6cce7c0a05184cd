"""All tasks of a meta-batch in one call: the same meta-gradient, for every algorithm of inner steps made of MAML."""

from __future__ import annotations

import pytest
import torch

import meta
import neo
from neo import LiteTensor, pytree
from tests.meta.test_maml import random_tasks

MODEL = neo.nn.Conv4(ways=3, hidden=4, size=16, blocks=3)
LEARNERS = {
    "iMAML": lambda: meta.MAML(MODEL, inner_lr=0.1, inner_steps=3, meta_gradient="implicit"),
    "BOIL": lambda: meta.BOIL(MODEL, inner_steps=2),
    "CAVIA": lambda: meta.CAVIA(MODEL, context=3),
    "MetaCurvature": lambda: meta.MetaCurvature(MODEL, inner_steps=2),
    "KFO": lambda: meta.KFO(MODEL, inner_steps=2),
    "TNet": lambda: meta.TNet(MODEL, inner_steps=2),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_tasks_in_one_call_have_the_meta_gradient_of_tasks_one_by_one(name):
    learner, tasks = LEARNERS[name](), random_tasks(3, 3, torch.float64, size=16)
    params = pytree.tree_map(lambda leaf: LiteTensor(leaf.data.double()), learner.init(seed=0))
    alone = meta.meta_gradient(learner, params, tasks)
    together = meta.meta_gradient(learner, params, tasks, workers=meta.Batched())
    scale = max(float(leaf.data.abs().max()) for leaf in pytree.leaves(alone.gradient))
    for one, other in zip(pytree.leaves(alone.gradient), pytree.leaves(together.gradient), strict=True):
        torch.testing.assert_close(other.data, one.data, rtol=0, atol=1e-9 * scale)
    torch.testing.assert_close(together.loss, alone.loss)


@pytest.mark.parametrize("name", sorted({*LEARNERS} - {"iMAML"}))
def test_mixed_has_the_numbers_of_reverse(name):
    learner, tasks = LEARNERS[name](), random_tasks(3, 1, torch.float64, size=16)
    mixed = LEARNERS[name]()
    mixed.estimator = meta.Mixed(segment=1)
    params = pytree.tree_map(lambda leaf: LiteTensor(leaf.data.double()), learner.init(seed=0))
    exact, found = (meta.meta_gradient(one, params, tasks).gradient for one in (learner, mixed))
    scale = max(float(leaf.data.abs().max()) for leaf in pytree.leaves(exact))
    for one, other in zip(pytree.leaves(exact), pytree.leaves(found), strict=True):
        torch.testing.assert_close(other.data, one.data, rtol=0, atol=1e-9 * scale)
