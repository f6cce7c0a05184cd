"""capture on the CPU: what a replay would not do again is refused, where it stands; what slips by is found out."""

from __future__ import annotations

import copy
import ctypes
import itertools
import threading

import numpy as np
import pytest
import torch

import neo
from neo import LiteTensor

pytestmark = pytest.mark.usefixtures("replays")

closed_over = torch.ones(3)


def in_a_thread(x):
    found = []
    thread = threading.Thread(target=lambda: found.append(x * 2))
    thread.start()
    thread.join()
    return found[0] + 1


def by_address(x):
    out = torch.empty(3)
    for i in range(3):  # not by tensor.data_ptr(), which is refused before
        ctypes.memset(out.untyped_storage().data_ptr(), i, 4)
    return out * x


def writes_to_what_it_closes_over(x):
    closed_over.add_(x)
    return closed_over * 2


def own_generator(x):
    return x + torch.rand(3, generator=torch.Generator().manual_seed(0))


def drawn_by_a_seed(x):
    with neo.nn.draws(0):
        return x + torch.rand(3)


REFUSED = {
    "item": (lambda x: x * x.sum().item(), "aten::_local_scalar_dense reads numbers"),
    "float": (lambda x: x * float(x[0]), "reads numbers"),
    "if": (lambda x: x if x.sum() > 0 else -x, "reads numbers"),
    "lite if": (lambda x: x if LiteTensor(x).sum() > 0 else -x, "reads numbers"),
    "tolist": (lambda x: x * x.tolist()[0], r"Tensor.tolist\(\) reads numbers"),
    "numpy": (lambda x: x * float(x.numpy()[0]), r"Tensor.numpy\(\) reads numbers"),
    "asarray": (lambda x: x * float(np.asarray(x)[0]), "reads numbers"),
    "lite tolist": (lambda x: x * LiteTensor(x).tolist()[0], "reads numbers"),
    "data_ptr": (lambda x: x * x.data_ptr(), r"Tensor.data_ptr\(\) reads numbers"),
    "deepcopy": (lambda x: copy.deepcopy(x), "reads numbers"),
    "equal": (lambda x: x * torch.equal(x, x), "aten::equal reads numbers"),
    "view": (lambda x: x * (x * 2)[1:].view(-1).tolist()[0], "reads numbers"),
    "closed over": (lambda x: x * closed_over.tolist()[0], "reads numbers"),
    "drawn": (lambda x: x * torch.rand(1).item(), "reads numbers"),
    "nonzero": (lambda x: x.nonzero().sum() + x, "the size of what aten::nonzero gives depends on numbers"),
    "mask": (lambda x: x[x > 0].sum() + x, "the size of what aten::index gives depends on numbers"),
    "unique": (lambda x: x.unique().sum() + x, "depends on numbers"),
    "masked_select": (lambda x: x.masked_select(x > 0).sum(), "depends on numbers"),
    "repeat": (
        lambda x: torch.ones(3).repeat_interleave(x.long().abs()).sum(),
        "depends on numbers|reads numbers",
    ),
    "argument": (lambda x: x.add_(1), "aten::add_ writes to an argument"),
    "view of argument": (lambda x: x[:2].t().mul_(2), "aten::mul_ writes to an argument"),
    "out=": (lambda x: torch.add(x, 1, out=x), "writes to an argument"),
    "write": (writes_to_what_it_closes_over, "aten::add_ writes to a tensor that the step closes over"),
    "resize": (lambda x: (x * 2).resize_(2), "aten::resize_ gives a tensor other memory"),
    "generator": (own_generator, "draws from a generator of its own"),
    "draws": (drawn_by_a_seed, "draws from a generator of its own"),
    "thread": (in_a_thread, "nothing recorded has made: it comes from another thread"),
    "kernel": (by_address, "aten::mul reads what a kernel that torch does not know has written"),
    "sparse": (lambda x: x.to_sparse().to_dense(), "without plain memory|depends on numbers"),
    "keys": (lambda x: neo.grad(lambda x: (x * x).sum())(LiteTensor(x)), "has tensors as keys.*argnums"),
    "gradient": (lambda x: x * torch.ones(3, requires_grad=True), "the step's result requires a gradient"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    step, words = REFUSED[case]
    captured = neo.capture(lambda x: step(x))
    for _ in range(2):  # at the second call as at the first
        with pytest.raises(neo.CaptureError, match=rf"capture\(<lambda>\): .*(?:{words})"):
            captured(torch.tensor([1.0, 2.0, 3.0]))
    assert torch._C._len_torch_dispatch_stack() == 0
    assert "tolist" not in torch.Tensor.__dict__  # torch's own methods are back
    assert closed_over.tolist()


def test_the_error_says_where():
    def reads(x):
        y = x + 1
        return y * y.sum().item()  # here

    with pytest.raises(
        neo.CaptureError, match=r"At .*test_refusals.py:\d+, in reads: return y \* y.sum\(\).item\(\)  # here"
    ):
        neo.capture(reads)(torch.rand(3))


def test_numbers_that_python_made_may_be_read():
    def step(x):
        size = torch.tensor([1, 2])
        return x[: size.tolist()[1]] * torch.arange(3).sum().item() + torch.from_numpy(np.ones(1, np.float32))

    captured = neo.capture(step)
    for i in range(4):
        x = torch.full((3,), float(i))
        assert torch.equal(captured(x), step(x))


def test_a_step_that_counts_is_found_out():
    counter = itertools.count()

    def counting(x):
        return {"value": [x, x * next(counter)]}

    captured = neo.capture(counting)
    captured(torch.ones(3))
    with pytest.raises(
        neo.CaptureError, match=r"other numbers in result\['value'\]\[1\] than the step itself"
    ):
        captured(torch.ones(3))
    assert captured(torch.ones(3))["value"][1][0] == 3  # the step itself


def test_a_step_whose_results_change_their_form_is_found_out():
    counter = itertools.count()
    captured = neo.capture(lambda x: [x] * next(counter))
    captured(torch.ones(3))
    with pytest.raises(neo.CaptureError, match="a result of another structure"):
        captured(torch.ones(3))


def hidden(x):
    """A number of x's by a way that nobody guards."""
    return ctypes.c_float.from_address(x.untyped_storage().data_ptr()).value


@pytest.mark.parametrize("late", [0, 1])
def test_a_read_that_nobody_sees_is_found_out_when_the_input_changes(late):
    captured = neo.capture(lambda x, y: (x + y) * (1.0 if hidden((x, y)[late]) > 0 else -1.0))
    given = [torch.ones(3), torch.ones(3)]
    for i in range(6):
        given[1 - late] = torch.full((3,), float(i + 1))
        captured(*given)
    given[late] = torch.full((3,), -2.0)
    with pytest.raises(neo.CaptureError, match="a replay gave other numbers in result than"):
        captured(*given)
    assert torch.equal(captured(*given), -(given[0] + given[1]))


def test_what_is_kept_for_a_tensor_is_not_taken_for_a_constant():
    doubled: dict[int, torch.Tensor] = {}

    def step(x):
        if id(x) not in doubled:
            doubled[id(x)] = x * 2
        return doubled[id(x)] + 1

    captured = neo.capture(step)
    kept = [torch.full((3,), float(i)) for i in range(5)]
    for x in kept:
        assert torch.equal(captured(x), x * 2 + 1)


def test_an_error_of_the_step_is_its_own():
    def step(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        neo.capture(step)(torch.ones(3))
    assert torch._C._len_torch_dispatch_stack() == 0
