"""Convolutions of few pixels with large weights, as products: against torch's, and to second order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import kernels
from neo.kernels import large_weights

# n, inputs, outputs, height, width, kernel, stride, padding, dilation
CASES = [
    (5, 192, 160, 1, 1, 3, 1, 1, 1),
    (3, 160, 192, 2, 3, 3, 1, 1, 1),
    (4, 160, 192, 3, 2, 3, 2, 1, 1),
    (2, 128, 96, 5, 4, 5, 2, 2, 1),
    (1, 192, 160, 5, 5, 3, 1, 2, 2),
    (7, 640, 512, 1, 2, 1, 1, 0, 1),
]


def draw(n, inputs, outputs, h, w, k):
    generator = torch.Generator().manual_seed(h + 10 * w)
    x = torch.randn(n, inputs, h, w, generator=generator, dtype=torch.float64)
    return x, torch.randn(outputs, inputs, k, k, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("n", "inputs", "outputs", "h", "w", "k", "stride", "padding", "dilation"), CASES)
def test_products_agree_with_torch(
    n, inputs, outputs, h, w, k, stride, padding, dilation, layout, monkeypatch
) -> None:
    monkeypatch.setattr(large_weights, "FEWEST", 100)
    x, weight = draw(n, inputs, outputs, h, w, k)
    geometry = ((stride,) * 2, (padding,) * 2, (dilation,) * 2, False, (0, 0), 1)
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    expected = F.conv2d(leaves[0], leaves[1], None, stride, padding, dilation)
    g = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, leaves, g)
    x, g = (image.contiguous(memory_format=layout) for image in (x, g))
    found = (
        large_weights.convolution(x, weight, None, geometry),
        large_weights.input_gradient(g, weight, x.shape, geometry),
        large_weights.weight_gradient(x, g, weight.shape, geometry),
    )
    for got, right in zip(found, (expected, *gradients), strict=True):
        assert got is not None
        torch.testing.assert_close(got, right, rtol=1e-12, atol=1e-10)


def test_conv2d_of_a_pixel_is_right_to_second_order_and_its_weight_keeps_its_layout() -> None:
    x, weight = draw(3, 192, 160, 1, 2, 3)

    def energy(x, w):
        return (torch.sin(F.conv2d(x, w * 0.01, None, 1, 1)) ** 2).sum()

    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    first = torch.autograd.grad(energy(*leaves), leaves, create_graph=True)
    right = torch.autograd.grad(torch.stack([(g**3).sum() for g in first]).sum(), leaves)
    every = (0, 1)
    got = neo.grad(lambda *a: sum((g**3).sum() for g in neo.grad(energy, every)(*a)), every)(
        neo.LiteTensor(x), neo.LiteTensor(weight)
    )
    for gradient, expected in zip(got, right, strict=True):
        torch.testing.assert_close(gradient.data, expected, rtol=1e-9, atol=1e-12)
        assert gradient.data.is_contiguous()


def test_an_image_of_a_pixel_does_not_look_channels_last_beside_a_contiguous_weight() -> None:
    x, weight = draw(30, 192, 160, 1, 1, 3)
    x = x.as_strided(
        x.shape, (192, 1, 192, 192)
    )  # as channels-last kernels leave it; torch would copy the weight
    (image,) = large_weights.images_beside(weight, x)
    assert image.stride() == (192, 1, 1, 1)
    assert torch.equal(image, x)
    assert image.data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w, g: (x, w[:, :100], g),  # a small weight
        lambda x, w, g: (x.repeat(30, 1, 1, 1), w, g),  # many pixels
        lambda x, w, g: (x, w.contiguous(memory_format=torch.channels_last), g),
        lambda x, w, g: (x, w, (*g[:5], 2)),  # groups
        lambda x, w, g: (x.half(), w.half(), g),
        lambda x, w, g: (x[:0], w, g),
    ],
)
def test_what_is_not_faster_so_is_left_to_torch(change) -> None:
    x, weight = draw(2, 192, 160, 1, 2, 3)
    geometry = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)
    assert large_weights.convolution(x, weight, None, geometry) is not None
    with kernels.switched_off():
        assert large_weights.convolution(x, weight, None, geometry) is None
    x, weight, geometry = change(x, weight, geometry)
    assert large_weights.convolution(x, weight, None, geometry) is None
