from __future__ import annotations

import pytest
import torch

import neo
from tasks import Batch, Glyphs, Task


def batch(*lead: int, item: tuple[int, ...] = (1, 2, 2)) -> Batch:
    return Batch(torch.rand(*lead, *item), torch.zeros(lead, dtype=torch.int64))


def test_task_gives_its_tasks_one_by_one():
    meta = Task(batch(3, 5), batch(3, 10))
    assert len(meta) == 3
    for i, one in enumerate(meta):
        assert one.support.x.shape == (5, 1, 2, 2)
        assert torch.equal(one.support.x, meta.support.x[i])
        assert torch.equal(one.query.y, meta.query.y[i])
    assert torch.equal(meta[-1].query.x, meta.query.x[2])
    assert len(meta[:2]) == 2


def test_task_is_frozen():
    task = Task(batch(5), batch(5))
    with pytest.raises(AttributeError):
        task.support = batch(5)


def test_task_refuses_to_be_indexed_when_it_is_one_task():
    one = Task(batch(3, 5), batch(3, 10))[0]
    for wrong in (len, list, lambda task: task[0]):
        with pytest.raises(TypeError, match=r"Task: this is one task \(support y \(5,\)\), not a meta-batch"):
            wrong(one)


def test_batch_takes_float_targets():
    sine = Task(
        Batch(torch.rand(4, 10, 1), torch.rand(4, 10, 1)), Batch(torch.rand(4, 5, 1), torch.rand(4, 5, 1))
    )
    assert len(sine) == 4
    assert not sine[0].batched


@pytest.mark.parametrize(("x", "y"), [((3, 5, 1), (3, 4)), ((3, 1), (4,)), ((3, 5), ())])
def test_batch_refuses_targets_of_another_length(x, y):
    with pytest.raises(ValueError, match=r"Batch: x and y must agree in their leading axes, got x \(3, "):
        Batch(torch.zeros(x), torch.zeros(y, dtype=torch.int64))


def test_batch_refuses_two_devices():
    with pytest.raises(ValueError, match=r"Batch: x and y must be on one device, got x on cpu and y on meta"):
        Batch(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize(
    ("support", "query", "message"),
    [
        (batch(3, 5), batch(4, 5), "same number of tasks"),
        (batch(3, 5), batch(5), "same number of tasks"),
        (batch(3, 5), batch(3, 5, item=(1, 2, 3)), r"items of one shape, got support \(1, 2, 2\)"),
        (batch(5), batch(5).to("meta"), "on one device, got cpu and meta"),
    ],
)
def test_task_refuses_support_and_query_that_do_not_match(support, query, message):
    with pytest.raises(ValueError, match=f"Task: .*{message}"):
        Task(support, query)


def test_meta_batch_is_a_tree_that_vmap_slices():
    """Adapting to a whole meta-batch at once equals adapting to its tasks in turn."""
    meta_batch = Glyphs().sampler("train", ways=3, shots=1, queries=2, seed=0).sample(0, 4)
    model = neo.nn.MLP(28 * 28, 8, 3)
    params = {name: value.to(torch.float64) for name, value in model.init(seed=0).items()}

    def loss(params, batch):
        return torch.nn.functional.cross_entropy(model(params, batch.x.double()), batch.y)

    def after_adaptation(params, task):
        gradient = neo.grad(loss, argnums=0)(params, task.support)
        adapted, _ = neo.optim.sgd(0.4).step(params, gradient, None)
        return loss(adapted, task.query)

    one = neo.value_and_grad(after_adaptation, argnums=0)
    values, gradients = neo.vmap(lambda task: one(params, task))(meta_batch)
    for i, task in enumerate(meta_batch):
        value, gradient = one(params, task)
        torch.testing.assert_close(values[i].data, value.data)
        for name in params:
            torch.testing.assert_close(gradients[name][i].data, gradient[name].data)
