"""Fused Policies against the plain compositions they stand for: values, and gradients to the third order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from neo.functions import batch_moments
from neo.functions.fused import patches_linear
from neo.functions.norm_relu_pool import batch_norm_relu, batch_norm_relu_max_pool


def plain(x, weight, bias):
    return F.relu(F.batch_norm(x, None, None, weight, bias, training=True))


def plain_pooled(x, weight, bias):
    return F.max_pool2d(plain(x, weight, bias), 2)


def derivatives(fn, args, orders: int = 3):
    """fn's value, and the gradients of a scalar made of each order's gradients."""
    argnums = tuple(range(len(args)))

    def square(tree):
        return sum((leaf * leaf * leaf).sum() for leaf in (tree if isinstance(tree, tuple) else (tree,)))

    out = [fn(*args)]
    for _ in range(orders):
        fn = neo.grad(lambda *a, fn=fn: square(fn(*a)), argnums=argnums)
        out.extend(fn(*args))
    return out


def draw(layout: torch.memory_format, weighted: bool):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(5, 3, 6, 6, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.tensor([0.7, -1.2, 0.4], dtype=torch.float64)  # a negative scale turns maxima into minima
    bias = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)
    return [neo.LiteTensor(value) for value in ((x, weight, bias) if weighted else (x, bias))]


@pytest.mark.parametrize("weighted", [True, False], ids=["scale", "no scale"])
@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["plain", "channels-last"]
)
@pytest.mark.parametrize(
    ("fused", "composed"),
    [(batch_norm_relu, plain), (batch_norm_relu_max_pool, plain_pooled)],
    ids=["norm relu", "norm relu pool"],
)
def test_fused_equals_composition_to_third_order(fused, composed, layout, weighted: bool) -> None:
    args = draw(layout, weighted)

    def call(fn):
        return fn if weighted else lambda x, bias: fn(x, None, bias)

    for got, expected in zip(derivatives(call(fused), args), derivatives(call(composed), args), strict=True):
        torch.testing.assert_close(got.data, expected.data, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (2, 0)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("biased", [True, False])
def test_patches_linear_equals_conv2d_to_third_order(
    stride: int, padding: int, channels: int, biased: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3, channels, 7, 9, generator=generator, dtype=torch.float64)
    args = [neo.LiteTensor(torch.randn(4, channels, 3, 3, generator=generator, dtype=torch.float64))]
    args += [neo.LiteTensor(torch.randn(4, generator=generator, dtype=torch.float64))] if biased else []
    fused = derivatives(lambda w, b=None: patches_linear(x, w, b, stride, padding), args)
    composed = derivatives(lambda w, b=None: F.conv2d(x, w, b, stride, padding), args)
    for got, expected in zip(fused, composed, strict=True):
        torch.testing.assert_close(got.data, expected.data, rtol=1e-9, atol=1e-10)


def test_patches_linear_refuses_images_that_could_want_a_gradient() -> None:
    with pytest.raises(TypeError, match="use conv2d"):
        patches_linear(neo.randn(1, 1, 5, 5), neo.randn(2, 1, 3, 3))


def test_channels_last_statistics_keep_the_digits_of_float32() -> None:
    """torch's own channels-last kernel, summing 60 000 pixels in a row, is ten times further off."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(75, 16, 28, 28, generator=generator) + 2 * torch.randn(1, 16, 1, 1, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    exact_mean, exact_variance = x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), correction=0)
    mean, variance = batch_moments.moments(x)
    worst = ((mean - exact_mean) / exact_variance.sqrt()).abs().max()
    assert worst < 3e-6
    assert ((variance - exact_variance) / exact_variance).abs().max() < 1e-6
    naive = torch.native_batch_norm(x, None, None, None, None, True, 0.0, 1e-5)[1]
    assert ((naive - exact_mean) / exact_variance.sqrt()).abs().max() > 3 * worst


@pytest.mark.parametrize("pixels", [1, 2, 7, 60, 97, 980, 58800])
def test_pieces_divide_the_pixels(pixels: int) -> None:
    pieces = batch_moments.pieces_of(pixels)
    assert pixels % pieces == 0
    assert 1 <= pieces <= batch_moments.MOST_PIECES
