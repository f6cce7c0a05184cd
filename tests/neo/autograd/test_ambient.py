"""Sessions inside torch's process-wide settings: what a setting has no business with stays the same to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import optree
import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor
from tasks import Glyphs
from tests.helpers.bfloat16 import needs_lstm


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


SETTINGS: dict[str, Any] = {
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device meta": lambda: default_device("meta"),
    "with torch.device": lambda: torch.device("meta"),
    "deterministic algorithms": deterministic,
    "matmul precision": lambda: matmul_precision("high"),
    "no grad": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
}


def everyday(w: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    """Ops whose rules make tensors of their own: masks, places, scales, zeros."""
    h = F.layer_norm(torch.relu(x @ w), (w.shape[1],))
    h = h + F.one_hot(y, 4).to(w.dtype) * 0.5 + F.pad(h[[0, 2, 1, 3, 4]], (1, 1), mode="reflect")[:, 1:-1]
    h = torch.cat([h.cumsum(1), F.softplus(h), torch.sort(h, 1).values], 1)
    picked = h[:, [0, 3, 5, 7]] / (1 + torch.linalg.vector_norm(h, dim=1, keepdim=True))
    return F.cross_entropy(picked * 1.5, y) + picked.var() + torch.where(h > 0, h, 0.1 * h).mean()


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradients_to_second_order_do_not_depend_on(setting: str):
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(3, 4, generator=generator), torch.randn(5, 3, generator=generator)
    y = torch.tensor([0, 1, 2, 3, 1])

    def loss(w: Any) -> Any:
        return everyday(w, x, y)

    def size(w: Any) -> Any:
        return neo.grad(loss, argnums=0)(w).square().sum()

    def orders() -> list[Any]:
        w_lite = LiteTensor(w)
        return [loss(w_lite), neo.grad(loss, argnums=0)(w_lite), neo.grad(size, argnums=0)(w_lite)]

    expected = orders()
    with SETTINGS[setting]():
        got = orders()
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine.dtype, mine.device) == (theirs.dtype, theirs.device)
        torch.testing.assert_close(mine.data, theirs.data, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("setting", SETTINGS)
def test_model_its_initial_weights_and_its_tasks_do_not_depend_on(setting: str):
    def step() -> Any:
        model = neo.nn.Conv4(ways=5, hidden=8)
        task = (
            Glyphs(alphabets=4, characters=6)
            .sampler("train", ways=5, shots=1, queries=1, seed=0)
            .sample(0, 1)[0]
        )
        params = model.init(seed=1)

        def loss(params: Any, batch: Any) -> Any:
            return F.cross_entropy(model(params, batch.x), batch.y)

        def after_a_step(params: Any) -> Any:
            gradient = neo.grad(loss, argnums=0)(params, task.support)
            adapted, _ = neo.optim.sgd(0.1).step(params, gradient, None)
            return loss(adapted, task.query)

        return params, neo.grad(after_a_step, argnums=0)(params)

    expected = step()
    with SETTINGS[setting]():
        got = step()
    for mine, theirs in zip(optree.tree_leaves(got), optree.tree_leaves(expected), strict=True):
        assert (mine.dtype, mine.device) == (theirs.dtype, theirs.device)
        torch.testing.assert_close(mine.data, theirs.data, rtol=1e-4, atol=1e-5)


LAYERS = {
    "linear": neo.nn.Linear(3, 2),
    "layer norm": neo.nn.LayerNorm(3),
    "rms norm": neo.nn.RMSNorm(3),
    "prelu": neo.nn.PReLU(3),
    "lstm": neo.nn.LSTM(3, 2),
    "embedding": neo.nn.Embedding(5, 3),
    "batch norm": neo.nn.BatchNorm2d(3),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_initial_weights_are_a_function_of_the_seed_alone(layer: Any):
    expected = layer.init(seed=3)
    for setting in SETTINGS.values():
        with setting():
            got = layer.init(seed=3)
        for name, weight in expected.items():
            assert got[name].dtype is weight.dtype is torch.float32
            assert torch.equal(got[name].data, weight.data)


def test_index_by_a_list_reads_the_entries_under_another_default_device():
    x = LiteTensor(torch.arange(5.0))
    with torch.device("meta"):
        assert x[[0, 2]].tolist() == [0.0, 2.0]
        gradient = neo.grad(lambda x: x[[0, 2, 2]].sum(), argnums=0)(x)
    assert gradient.tolist() == [1.0, 0.0, 2.0, 0.0, 0.0]


def test_new_tensors_follow_the_defaults_as_torchs_do():
    with default_dtype(torch.float64):
        assert {neo.zeros(2).dtype, neo.randn(2).dtype, LiteTensor(1.5).dtype} == {torch.float64}
        assert (LiteTensor(torch.ones(2, dtype=torch.int64)) * 1.5).dtype is torch.float64
    with torch.device("meta"):
        assert neo.zeros(2).device.type == LiteTensor([1.0]).device.type == "meta"


@needs_lstm
def test_recurrent_layers_follow_autocast_as_torchs_modules_do():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3)
    for ours, theirs in (
        (neo.nn.LSTM(3, 5), torch.nn.LSTM(3, 5, batch_first=True)),
        (neo.nn.GRU(3, 5), torch.nn.GRU(3, 5, batch_first=True)),
        (neo.nn.RNN(3, 5), torch.nn.RNN(3, 5, batch_first=True)),
    ):
        params = {name: LiteTensor(weight) for name, weight in theirs.named_parameters()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got, _ = ours(params, x)
            expected, _ = theirs(x)
        assert got.dtype is expected.dtype
        torch.testing.assert_close(got.data, expected.detach(), rtol=2e-2, atol=2e-2)
