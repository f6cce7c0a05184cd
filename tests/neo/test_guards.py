"""Conditions on numbers: at once on the CPU; of a device, when a number is read. No GPU takes part: it is played."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

import neo
from neo import LiteTensor, guards
from neo.errors import SavedTensorError

YES, NO = torch.tensor(True), torch.tensor(False)
X = LiteTensor([1.0, 2.0])


@pytest.fixture
def on_a_device(monkeypatch):
    """Numbers are computed, and may not be had at once."""
    monkeypatch.setattr(guards, "known", lambda flag: None)
    yield
    guards._pending.clear()


def test_condition_on_the_cpu_raises_at_once():
    guards.require(YES, lambda: ValueError("never"))
    with pytest.raises(ValueError, match="at once"):
        guards.require(NO, lambda: ValueError("at once"))
    assert guards._pending == {}


READS = {
    "item": lambda: X[0].item(),
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "asarray": lambda: np.asarray(X),
    "float": lambda: float(X[0]),
    "int": lambda: int(X[0]),
    "bool": lambda: bool(X[0]),
    "str": lambda: str(X),
    "format": lambda: f"{X[0]:.2f}",
    "settle": guards.settle,
}


@pytest.mark.usefixtures("on_a_device")
@pytest.mark.parametrize("read", READS)
def test_condition_on_a_device_raises_when_a_number_is_read(read):
    guards.require(YES, lambda: ValueError("holds"))
    guards.require(NO, lambda: ValueError("does not hold"))
    guards.require(YES, lambda: ValueError("does not hold"))  # does not make good what was wrong
    with pytest.raises(ValueError, match="does not hold"):
        READS[read]()
    READS[read]()  # once


@pytest.mark.usefixtures("on_a_device")
def test_pending_conditions_do_not_accumulate():
    for _ in range(100):
        guards.require(YES, lambda: ValueError("one"))
    assert len(guards._pending) == 1
    guards.settle()
    assert guards._pending == {}


@pytest.mark.usefixtures("on_a_device")
@pytest.mark.parametrize("wrap", [neo.checkpoint, lambda f: lambda x: neo.vmap(f)(x[None])[0]])
def test_recomputation_that_differs_is_found_when_the_gradient_is_read(wrap):
    calls = iter([1.0, 2.0, 3.0])
    gradient = neo.grad(wrap(lambda x: x * next(calls)), argnums=0)(X)
    with pytest.raises(SavedTensorError, match=r"output 0, .* came out different when fn was run again"):
        gradient.tolist()


def test_tensors_without_numbers_pass():
    guards.require(torch.empty((), dtype=torch.bool, device="meta"), lambda: ValueError("never"))
    with FakeTensorMode():
        for device in ("cpu", "cuda"):
            flag = torch.empty((), dtype=torch.bool, device=device)
            assert guards.known(flag) is None
            guards.require(flag, lambda: ValueError("never"))
    assert guards._pending == {}


def test_condition_inside_vmap_must_hold_for_every_example():
    def fn(x):
        guards.require((x.data > 0).all(), lambda: ValueError("an example is not positive"))
        assert guards.known((x.data > 0).all()) is None
        return x

    neo.vmap(fn)(LiteTensor([[1.0], [2.0]]))
    with pytest.raises(ValueError, match="an example is not positive"):
        neo.vmap(fn)(LiteTensor([[1.0], [-2.0]]))
