"""A parameter of a wrong count or dtype is refused as torch refuses it, whichever kernel would read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor, kernels
from neo.functions import fused, norm_relu_pool
from neo.kernels import batch_norm as norm_kernels

ones = torch.ones
WRONG = [3, 64, 1, 15, 17, 0]


def image(last: bool = True, channels: int = 16, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(2, channels, 6, 6, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def torchs_error(call: Callable[..., Any], args: tuple[Any, ...]) -> Exception:
    with pytest.raises((RuntimeError, ValueError)) as error:
        call(*args)
    return error.value


def assert_refused_as_torch_does(
    name: str, call: Callable[..., Any], args: tuple[Any, ...], reference: Callable[..., Any] | None = None
) -> None:
    kind = type(torchs_error(reference or call, args))
    lite = [LiteTensor(value) for value in args]
    places = tuple(range(len(args)))
    for tried in (
        lambda: call(*lite),
        lambda: neo.grad(lambda *a: call(*a).sum(), argnums=places)(*lite),
        lambda: neo.grad(
            lambda *a: (neo.grad(lambda *b: call(*b).sum(), argnums=0)(*a) ** 2).sum(), argnums=0
        )(*lite),
    ):
        with pytest.raises(kind, match=name):
            tried()


CONVOLUTIONS = {
    "bias of another count": lambda x, count: (x, ones(16, 16, 3, 3), ones(count)),
    "bias of two dims": lambda x, count: (x, ones(16, 16, 3, 3), ones(16, count)),
    "weight of other inputs": lambda x, count: (x, ones(16, count, 3, 3), ones(16)),
    "weight of other inputs, in whole vectors": lambda x, count: (
        x,
        ones(16, 32 + 16 * (count % 2), 3, 3),
        ones(16),
    ),
    "weight of another dtype": lambda x, count: (x, ones(16, 16, 3, 3, dtype=torch.float64), ones(16)),
    "bias of another dtype": lambda x, count: (x, ones(16, 16, 3, 3), ones(16, dtype=torch.float64)),
    "bias in bfloat16": lambda x, count: (x, ones(16, 16, 3, 3), ones(16, dtype=torch.bfloat16)),
}


@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "plain"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("what", CONVOLUTIONS)
def test_conv2d_refuses_wrong_parameters_as_torch_does(what: str, stride: int, last: bool) -> None:
    for count in WRONG if "count" in what or what.endswith("inputs") else WRONG[:2]:
        args = CONVOLUTIONS[what](image(last), count)
        assert_refused_as_torch_does("conv2d", lambda *a: F.conv2d(*a, stride, 1), args)


def batch_norm(x: Any, weight: Any, bias: Any) -> Any:
    return F.batch_norm(x, None, None, weight, bias, training=True)


NORMS: dict[str, Callable[..., Any]] = {
    "batch_norm": batch_norm,
    "batch_norm_relu": norm_relu_pool.batch_norm_relu,
    "batch_norm_relu_max_pool": norm_relu_pool.batch_norm_relu_max_pool,
}


@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "plain"])
@pytest.mark.parametrize("name", NORMS)
def test_norms_refuse_wrong_parameters_as_torch_does(name: str, last: bool) -> None:
    x = image(last)
    for count in WRONG:
        for args in ((x, ones(count), ones(16)), (x, ones(16), ones(count)), (x, ones(count), ones(count))):
            assert_refused_as_torch_does(name, NORMS[name], args, batch_norm)
    for args in ((x, ones(16).double(), ones(16)), (x, ones(16), ones(16).double())):
        assert_refused_as_torch_does(name, NORMS[name], args, batch_norm)


@pytest.mark.parametrize("position", range(4))
def test_batch_norm_by_running_statistics_refuses_wrong_counts(position: int) -> None:
    for count in WRONG:
        rows = [ones(16), ones(16), ones(16), ones(16)]
        rows[position] = ones(count)
        args = (image(), rows[2], rows[3])
        call = lambda x, w, b, rows=rows: F.batch_norm(x, rows[0], rows[1], w, b)  # noqa: E731
        assert_refused_as_torch_does("batch_norm", call, args)


def test_batch_norm_takes_a_scale_of_two_dims_as_torch_does() -> None:
    x, w, b = (
        image(dtype=torch.float64),
        torch.randn(4, 4, dtype=torch.float64),
        torch.randn(16, 1, dtype=torch.float64),
    )
    got = neo.grad(lambda w, b: (batch_norm(x, w, b) ** 3).sum(), argnums=(0, 1))(
        LiteTensor(w), LiteTensor(b)
    )
    right = neo.grad(lambda w, b: (batch_norm(x, w, b) ** 3).sum(), argnums=(0, 1))(
        LiteTensor(w.reshape(-1)), LiteTensor(b.reshape(-1))
    )
    y = batch_norm(LiteTensor(x), LiteTensor(w), LiteTensor(b)).data
    torch.testing.assert_close(y, batch_norm(x, w, b), rtol=1e-12, atol=1e-12)
    for ours, flat, given in zip(got, right, (w, b), strict=True):
        assert torch.equal(ours.data, flat.data.reshape(given.shape))


@pytest.mark.parametrize("count", [1, 5, 7])
def test_rms_norm_refuses_a_weight_of_another_shape(count: int) -> None:
    assert_refused_as_torch_does("rms_norm", lambda x, w: F.rms_norm(x, (6,), w), (image(), ones(count)))


def composed(x: Any, weight: Any, bias: Any, gamma: Any, beta: Any) -> Any:
    return F.max_pool2d(F.relu(batch_norm(F.conv2d(x, weight, bias, 1, 1), gamma, beta)), 2)


@pytest.mark.parametrize("planes", [1, 16])
@pytest.mark.parametrize("position", [1, 2, 3])
def test_blocks_leave_parameters_of_a_wrong_count_to_torch(planes: int, position: int) -> None:
    x, right = image(channels=planes), [ones(16, planes, 3, 3), ones(16), ones(16), ones(16)]
    assert fused.conv_block(x, *map(LiteTensor, right), 1, 2) is not None
    for count in WRONG:
        for wrong in (
            ones(count),
            ones(16, 1),
            ones(16, dtype=torch.float64),
            ones(16, dtype=torch.bfloat16),
        ):
            params = [*right[:position], wrong, *right[position + 1 :]]
            assert fused.conv_block(x, *map(LiteTensor, params), 1, 2) is None


@pytest.mark.parametrize("pool", ["stride", "max"])
@pytest.mark.parametrize("block", [0, 1, 3])
@pytest.mark.parametrize(
    ("param", "name"),
    [
        ("conv{}.bias", "conv2d|patches_linear"),
        ("norm{}.weight", "batch_norm"),
        ("norm{}.bias", "batch_norm"),
    ],
)
def test_conv4_refuses_params_of_a_wrong_count(param: str, name: str, block: int, pool: str) -> None:
    net, x = neo.nn.Conv4(5, hidden=16, pool=pool), torch.rand(4, 1, 28, 28)
    params = net.init(0)
    for count in WRONG:
        wrong = {**params, param.format(block): LiteTensor(ones(count))}
        with pytest.raises(RuntimeError, match=name):
            net(wrong, x)
        with pytest.raises(RuntimeError, match=name):
            neo.grad(lambda p: net(p, x).sum(), argnums=0)(wrong)


@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "plain"])
def test_numbers_behind_a_negative_bit_are_read_with_it(last: bool) -> None:
    x, w = image(last, dtype=torch.float64), torch.randn(16, 16, 3, 3, dtype=torch.float64)
    rows = torch.randn(3, 16, dtype=torch.float64)

    def energy(x: Any, w: Any, *rows: Any) -> Any:
        y = fused.conv_block(x, w, *rows, 1, 2)
        return ((composed(x, w, *rows) if y is None else y) ** 2).sum() + (
            F.conv2d(x, w, rows[0], 1, 1) ** 2
        ).sum()

    places = tuple(range(5))
    args = [x, w, *rows]
    right = neo.grad(energy, argnums=places)(*map(LiteTensor, args))
    got = neo.grad(energy, argnums=places)(*(LiteTensor(torch._neg_view(-a)) for a in args))
    for ours, theirs in zip(got, right, strict=True):
        torch.testing.assert_close(ours.data, theirs.data, rtol=1e-10, atol=1e-10)


def test_kernels_stand_back_under_autocast() -> None:
    x = image()
    assert kernels.ready(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not kernels.ready(x)
        assert (
            fused.conv_block(
                LiteTensor(x), LiteTensor(ones(16, 16, 3, 3)), None, None, LiteTensor(ones(16)), 1, 1
            )
            is None
        )
    assert kernels.ready(x)
    with torch.autocast("cuda", dtype=torch.float16, enabled=False):
        assert kernels.ready(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_kernels_ways_back_take_cotangents_of_another_dtype(dtype: torch.dtype) -> None:
    """As they come where what follows a block was computed under autocast."""
    x, weight, bias = image(), torch.randn(16), torch.randn(16)
    y, place, mean, scale = norm_kernels.norm(x, weight, bias, 1e-5, 2, 0.0)
    y_bar = torch.randn(y.shape).to(dtype)
    got, right = (
        norm_kernels.norm_backward(g, y, place, x, weight, mean, scale, 2, 0.0)
        for g in (y_bar, y_bar.float())
    )
    for ours, theirs in zip(got, right, strict=True):
        assert torch.equal(ours, theirs)
