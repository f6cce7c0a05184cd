"""A meta-step neither waits for its device nor leaves it. No GPU takes part: dispatch log and fake tensors play one."""

from __future__ import annotations

import optree
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor

import neo
from meta import MAML, meta_gradient
from tasks import Batch, Task
from tests.neo.synchronisation import Synchronisations

WAYS = 3


def learner(fused: bool = True) -> MAML:
    model = neo.nn.Conv4(ways=WAYS, size=28, hidden=8, fused=fused)
    return MAML(model, inner_lr=0.1, inner_steps=2)


def tasks(device: str) -> list[Task]:
    def batch(count: int) -> Batch:
        labels = torch.arange(count, device=device).remainder(WAYS)
        return Batch(torch.rand(count, 1, 28, 28, device=device), labels)

    return [Task(batch(WAYS), batch(2 * WAYS)) for _ in range(2)]


def meta_step(maml: MAML, params, device: str):
    """Second order, and a step of the outer optimiser: everything that an iteration computes."""
    outer = neo.optim.adam(1e-3)
    found = meta_gradient(maml, params, tasks(device))
    params, state = outer.step(params, found.gradient, outer.init(params))
    return params, state, found


@pytest.mark.parametrize("fused", [True, False])
def test_meta_step_of_maml_with_conv4_waits_for_nothing(fused):
    maml = learner(fused)
    params = maml.init(seed=0)
    with Synchronisations(refuse=True):
        updated, _, found = meta_step(maml, params, "cpu")
    assert found.loss.isfinite().all()
    # A bias before batch norm has no gradient but for rounding.
    moved = [name for name in params if not name.endswith(".bias") or name.startswith(("norm", "head"))]
    assert all(not torch.equal(updated[name].data, params[name].data) for name in moved)


def test_log_sees_what_would_wait():
    maml = learner()
    with Synchronisations() as log:
        _, _, found = meta_step(maml, maml.init(seed=0), "cpu")
        float(found.loss.mean())
    assert log.seen == ["_local_scalar_dense"]


@pytest.mark.parametrize("fused", [True, False])
def test_meta_step_of_maml_with_conv4_stays_on_a_fake_cuda_device(fused):
    maml = learner(fused)
    with FakeTensorMode():
        params = optree.tree_map(
            lambda p: neo.LiteTensor(torch.empty(tuple(p.shape), dtype=p.dtype, device="cuda")),
            maml.init(seed=0),
        )
        result = meta_step(maml, params, "cuda")
        leaves = [
            leaf for leaf in optree.tree_leaves(result) if isinstance(leaf, neo.LiteTensor | torch.Tensor)
        ]
        assert len(leaves) > 4 * len(params)
        for leaf in leaves:
            data = leaf.data if isinstance(leaf, neo.LiteTensor) else leaf
            assert isinstance(data, FakeTensor)
            assert data.device.type == "cuda"
