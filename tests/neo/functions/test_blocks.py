"""Blocks on Neo's own kernels against the compositions they stand for: values, and gradients to the third order.

The oracle of batch norm is written out: torch's own rule takes the batch's statistics for constants at third order.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import kernels
from neo.functions import blocks, fused

pytestmark = pytest.mark.skipif(not kernels.available(), reason="built without Neo's own kernels")


def norm(x, weight, bias, eps=1e-5):
    mean = x.mean((0, 2, 3), keepdim=True)
    y = (x - mean) * torch.rsqrt(((x - mean) ** 2).mean((0, 2, 3), keepdim=True) + eps)
    return (y if weight is None else y * weight.reshape(1, -1, 1, 1)) + bias.reshape(1, -1, 1, 1)


def pooled(x, window):
    return F.max_pool2d(torch.relu(x), window) if window > 1 else torch.relu(x)


def orders(fn, args, grad):
    """fn's value and gradients of cubes of each order's gradients, up to the third; grad(fn, count) makes gradients."""
    found = [fn(*args)]
    for _ in range(3):

        def cubes(*a, fn=fn):
            out = fn(*a)
            return sum((leaf**3).sum() for leaf in (out if isinstance(out, tuple) else (out,)))

        fn = grad(cubes, len(args))
        found.extend(fn(*args))
    return found


def neo_grad(fn, count):
    return neo.grad(fn, argnums=tuple(range(count)))


def torch_grad(fn, count):
    def gradients(*args):
        found = torch.autograd.grad(fn(*args), args, create_graph=True, allow_unused=True)
        return tuple(torch.zeros_like(a) if g is None else g for g, a in zip(found, args, strict=True))

    return gradients


def assert_same(own, composed, args, rtol=1e-9):
    got = orders(own, [neo.LiteTensor(a) for a in args], neo_grad)
    right = orders(composed, [a.clone().requires_grad_() for a in args], torch_grad)
    for ours, theirs in zip(got, right, strict=True):
        assert (ours.data - theirs).norm() <= rtol * theirs.norm() + 1e-9


@pytest.mark.parametrize("scaled", [True, False], ids=["scale", "no scale"])
@pytest.mark.parametrize(("window", "size"), [(1, 5), (2, 6), (2, 7), (3, 7)])
def test_norm_relu_pool_equals_its_composition_to_third_order(window, size, scaled) -> None:
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(3, 16, size, size, generator=generator, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(
        16, generator=generator, dtype=torch.float64
    )  # negative ones turn maxima into minima
    bias = torch.randn(16, generator=generator, dtype=torch.float64)

    def own(x, *params):
        return blocks.norm_relu_pool(x, params[0] if scaled else None, params[-1], 1e-5, window)

    def composed(x, *params):
        return pooled(norm(x, params[0] if scaled else None, params[-1]), window)

    assert_same(own, composed, (x, weight, bias) if scaled else (x, bias))


@pytest.mark.parametrize("scaled", [True, False], ids=["scale", "no scale"])
@pytest.mark.parametrize(("stride", "window"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_first_block_equals_its_composition_to_third_order(planes, stride, window, scaled) -> None:
    generator = torch.Generator().manual_seed(planes)
    x = torch.rand(3, planes, 11, 10, generator=generator, dtype=torch.float64)
    weight = torch.randn(16, planes, 3, 3, generator=generator, dtype=torch.float64) / 3
    bias, gamma, beta = torch.randn(3, 16, generator=generator, dtype=torch.float64)

    def own(weight, *rest):
        gamma = rest[0] if scaled else None
        return fused.first_block_of_images(x, weight, bias, gamma, rest[-1], stride, window)

    def composed(weight, *rest):
        y = F.conv2d(x, weight, bias, stride, 1)
        return pooled(norm(y, rest[0] if scaled else None, rest[-1]), window)

    assert_same(own, composed, (weight, gamma, beta) if scaled else (weight, beta), rtol=1e-8)


def test_first_block_gives_the_bias_that_the_mean_takes_away_a_gradient_of_zero() -> None:
    x, weight = torch.rand(2, 1, 6, 6), neo.randn(16, 1, 3, 3)
    bias, beta = neo.randn(16), neo.randn(16)
    loss = lambda bias: (fused.first_block_of_images(x, weight, bias, None, beta, 1, 2) ** 2).sum()  # noqa: E731
    assert neo.grad(loss, argnums=0)(bias).tolist() == [0.0] * 16


@pytest.mark.parametrize("size", [5, 6])
def test_norm_relu_pool_keeps_nan(size: int) -> None:
    x = torch.randn(2, 16, size, size).contiguous(memory_format=torch.channels_last)
    x[0, 3, 1, 1] = torch.nan
    y = blocks.norm_relu_pool(x, None, torch.zeros(16), 1e-5, 2)
    assert y[:, 3].isnan().all()
    assert not y[:, 4].isnan().any()


def test_norm_relu_pool_keeps_the_digits_of_float32() -> None:
    """60 000 pixels, far from zero: sums in short pieces lose nothing that can be seen."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(75, 16, 28, 28, generator=generator) + 3 * torch.randn(1, 16, 1, 1, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    bias = torch.zeros(16)
    y = blocks.norm_relu_pool(x, None, bias, 1e-5, 1)
    exact = torch.relu(norm(x.double(), None, bias.double()))
    assert (y - exact).norm() < 3e-7 * exact.norm()
