"""Neo's 3x3 convolutions against torch's, in float64: the value, and the gradients of image, weight and bias."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import kernels
from neo.kernels import convolution as own

GEOMETRY = {s: ((s, s), (1, 1), (1, 1), False, (0, 0), 1) for s in (1, 2)}
# Whole tiles of 4x4 and broken ones, a single pixel, more tiles than one round; whole and broken panels of 6 rows.
IMAGES = [(1, 1, 1), (2, 4, 4), (3, 2, 5), (5, 9, 6), (7, 14, 14)]
ERROR = {torch.float64: 1e-13, torch.float32: 3e-6}  # relative; of torch's own float32: 2e-7 to 1e-6


def last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def draw(n, inputs, outputs, h, w, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n + 10 * h)
    x = torch.randn(n, inputs, h, w, generator=generator, dtype=dtype)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator, dtype=dtype)
    return last(x), last(weight), torch.randn(outputs, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("n", "h", "w"), IMAGES)
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (48, 80), (64, 64)])
def test_kernel_and_its_gradients_agree_with_torch(inputs, outputs, n, h, w, stride, dtype) -> None:
    check_against_torch(inputs, outputs, n, h, w, stride, dtype)


# Enough images for points.h: every end that an axis can have, alone and beside others; whole and broken chunks of
# images; a size with too many points.
@pytest.mark.parametrize("size", [*range(4, 18), 21, 28, 84])
def test_many_strided_images_of_any_size(size) -> None:
    check_against_torch(16, 16, 17, size, 7, 2, torch.float64)
    check_against_torch(16, 32, 16, 6, size, 2, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("n", [36, 37, 75])
@pytest.mark.parametrize(("inputs", "outputs"), [(48, 80), (64, 64)])
def test_many_strided_images_of_the_omniglot_net(inputs, outputs, n, dtype) -> None:
    for size in (14, 7):
        check_against_torch(inputs, outputs, n, size, size, 2, dtype)


def check_against_torch(inputs, outputs, n, h, w, stride, dtype) -> None:
    x, weight, bias = draw(n, inputs, outputs, h, w, dtype)
    geometry = GEOMETRY[stride]
    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    expected = F.conv2d(*exact, stride, 1)
    g = last(torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    gradients = torch.autograd.grad(expected, exact, g)
    g = g.to(dtype)
    found = [
        own.convolution(x, weight, bias, geometry),
        own.input_gradient(g, weight, (x.shape, x.stride()), geometry),
        own.weight_gradient(x, g, weight.shape, geometry),
        own.bias_gradient(g),
    ]
    for got, right in zip(found, (expected, *gradients), strict=True):
        assert got is not None
        assert got.dtype == dtype
        assert (got - right).norm() <= ERROR[dtype] * right.norm()


@pytest.mark.parametrize(("stride", "n"), [(1, 2), (2, 2), (2, 16)])
def test_conv2d_on_the_kernels_is_right_to_second_order(stride: int, n: int) -> None:
    args = [neo.LiteTensor(t) for t in draw(n, 16, 16, 6, 7)]

    def energy(x, w, b):
        return (torch.sin(F.conv2d(x, w, b, stride, 1)) ** 2).sum()

    def torch_second(*tensors):
        leaves = [t.data.clone().requires_grad_() for t in tensors]
        first = torch.autograd.grad(energy(*leaves), leaves, create_graph=True)
        return torch.autograd.grad(sum((g**3).sum() for g in first), leaves)

    every = (0, 1, 2)
    got = neo.grad(lambda *a: sum((g**3).sum() for g in neo.grad(energy, every)(*a)), every)(*args)
    for gradient, right in zip(got, torch_second(*args), strict=True):
        torch.testing.assert_close(gradient.data, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w, b, g: (x[:, :15], w[:, :15], b, g),  # channels that fill no vector
        lambda x, w, b, g: (x.contiguous(), w, b, g),  # another layout
        lambda x, w, b, g: (x, w, b, (g[0], (0, 0), *g[2:])),  # no padding
        lambda x, w, b, g: (x, w, b, ((3, 3), *g[1:])),
        lambda x, w, b, g: (x[:0], w, b, g),  # no images
        lambda x, w, b, g: (x.half(), w.half(), b.half(), g),
    ],
)
def test_what_the_kernels_do_not_take_is_left_to_torch(change) -> None:
    x, weight, bias, geometry = change(*draw(2, 16, 16, 5, 5), GEOMETRY[1])
    assert own.convolution(x, weight, bias, geometry) is None


def test_kernels_switched_off_are_not_asked() -> None:
    x, weight, bias = draw(2, 16, 16, 5, 5)
    with kernels.switched_off():
        assert own.convolution(x, weight, bias, GEOMETRY[1]) is None
        assert not kernels.ready(x)
    assert own.convolution(x, weight, bias, GEOMETRY[1]) is not None


@pytest.mark.parametrize("stride", [1, 2])
def test_nan_and_infinity_do_not_get_lost(stride: int) -> None:
    x, weight, bias = draw(1, 16, 16, 5, 5)
    x[0, 3, 2, 2] = torch.nan
    y = own.convolution(x, weight, bias, GEOMETRY[stride])
    centre = y[0, :, 2 // stride, 2 // stride]
    assert centre.isnan().all()
