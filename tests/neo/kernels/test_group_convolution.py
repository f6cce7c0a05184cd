"""Neo's convolutions in groups against torch's, in float64: value and gradients, and these to third order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import neo
from neo.kernels import group_convolution as own
from tests.neo.kernels.test_direct_entries import DTYPES, LAYOUTS, laid_out

pytestmark = pytest.mark.usefixtures("own_kernels")

ERROR = {torch.float64: 1e-13, torch.float32: 1e-6}  # relative; of torch's own float32: 2e-7 to 1e-6
# Channels and a group's: whole vectors and blocks, and a last block that overlaps the one before.
GROUPS = [(16, 1), (24, 1), (40, 1), (72, 2), (48, 4), (32, 2)]
# A single pixel; fewer images than a panel has rows, and more; sizes that no panel divides.
IMAGES = [(1, 1, 1), (1, 7, 9), (3, 8, 17), (5, 6, 3), (13, 9, 5)]
KERNELS = [(1, 1), (3, 3), (3, 5), (7, 7)]
# Stride, padding, dilation: even, uneven, with and without zeros, taps that never fall inside.
WINDOWS = [
    ((1, 1), (1, 1), (1, 1)),
    ((2, 2), (1, 1), (1, 1)),
    ((1, 2), (3, 2), (1, 1)),
    ((1, 1), (2, 2), (2, 2)),
    ((3, 2), (0, 3), (2, 3)),
    ((2, 2), (3, 3), (2, 1)),
]


def last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fits(size, kernel, window) -> bool:
    return all(
        n + 2 * padding >= dilation * (taps - 1) + 1
        for n, taps, padding, dilation in zip(size, kernel, window[1], window[2], strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize(("channels", "width"), GROUPS)
def test_value_and_gradients_agree_with_torch(channels, width, window, dtype) -> None:
    geometry = (*window, False, (0, 0), channels // width)
    for n, *size in IMAGES:
        for kernel in KERNELS:
            if not fits(size, kernel, window):
                continue
            x = last(draw(n, channels, *size, seed=1, dtype=dtype))
            weight, bias = draw(channels, width, *kernel, seed=2, dtype=dtype), draw(channels, dtype=dtype)
            exact = [t.double().requires_grad_() for t in (x, weight, bias)]
            expected = F.conv2d(*exact, *window, channels // width)
            g = last(draw(*expected.shape, seed=3, dtype=dtype))
            right = torch.autograd.grad(expected, exact[:2], g.double())
            found = (
                own.convolution(x, weight, bias, geometry),
                own.input_gradient(g, weight, (tuple(x.shape), last(x).stride()), geometry),
                own.weight_gradient(x, g, tuple(weight.shape), geometry),
            )
            for got, wanted in zip(found, (expected, *right), strict=True):
                if got is None:  # in groups wider than this variant's vectors, or of too few channels
                    continue
                assert got.dtype == dtype
                assert got.shape == wanted.shape
                assert (got - wanted).norm() <= ERROR[dtype] * wanted.norm()


@pytest.mark.parametrize("width", [1, 2])
def test_the_kernels_serve_these(width) -> None:
    x, weight = last(draw(2, 32, 5, 5)), draw(32, width, 3, 3)
    geometry = ((1, 1), (1, 1), (1, 1), False, (0, 0), 32 // width)
    assert own.convolution(x, weight, None, geometry) is not None
    assert own.input_gradient(x, weight, (tuple(x.shape), x.stride()), geometry) is not None
    assert own.weight_gradient(x, x, tuple(weight.shape), geometry) is not None


def test_what_they_do_not_take_is_torchs() -> None:
    x, weight = last(draw(2, 32, 5, 5)), draw(32, 1, 3, 3)
    geometry = ((1, 1), (1, 1), (1, 1), False, (0, 0), 32)
    assert own.convolution(x.contiguous(), weight, None, geometry) is None  # channels are not last
    assert own.convolution(x[:0], weight, None, geometry) is None
    assert own.convolution(x, weight.float(), None, geometry) is None
    assert own.convolution(x, draw(64, 1, 3, 3), None, geometry) is None  # two channels out for each in
    assert own.convolution(x.bfloat16(), weight.bfloat16(), None, geometry) is None
    assert own.weight_gradient(x, x[:, :, 1:], (32, 1, 3, 3), geometry) is None


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        (),
        ((1, 1), (1, 1), (1, 1), False, (0, 0), 16.0),
        ((1, 1), (1, 1), (1, 1), False, (0, 0), 2**70),
        ((1, 1), (1, 1), (1, 1), False, (0, 0), -16),
        ((1, 1), (1, 1), (1, 1), True, (0, 0), 16),
        ((0, 1), (1, 1), (1, 1), False, (0, 0), 16),
        ((1, 1), (-1, 1), (1, 1), False, (0, 0), 16),
        ((1, 1), (2**70, 1), (1, 1), False, (0, 0), 16),
        ((1,), (1,), (1,), False, (0,), 16),
    ],
    ids=str,
)
def test_a_geometry_they_do_not_know_is_torchs(geometry) -> None:
    x, weight = last(draw(2, 16, 5, 5)), draw(16, 1, 3, 3)
    assert own.convolution(x, weight, None, geometry) is None
    assert own.input_gradient(x, weight, (tuple(x.shape), x.stride()), geometry) is None
    assert own.weight_gradient(x, x, tuple(weight.shape), geometry) is None


def test_not_contiguous_and_nan() -> None:
    weight = draw(5, 3, 1, 32).permute(3, 2, 1, 0)  # (32, 1, 3, 5)
    x = last(draw(3, 32, 6, 7))
    g = draw(3, 6, 32, 7).transpose(1, 2)
    geometry = ((1, 1), (1, 2), (1, 1), False, (0, 0), 32)
    exact = [t.clone().requires_grad_() for t in (x, weight)]
    expected = F.conv2d(*exact, None, 1, (1, 2), 1, 32)
    x_bar, w_bar = torch.autograd.grad(expected, exact, g)
    torch.testing.assert_close(own.convolution(x, weight, None, geometry), expected.detach())
    layout = (tuple(x.shape), x.stride())
    torch.testing.assert_close(own.input_gradient(g, weight, layout, geometry), x_bar)
    torch.testing.assert_close(own.weight_gradient(x, g, tuple(weight.shape), geometry), w_bar)
    x[0, 3, 2, 2] = torch.nan
    y = own.convolution(x, weight, None, geometry)
    torch.testing.assert_close(y, F.conv2d(x, weight, None, 1, (1, 2), 1, 32), equal_nan=True)


@pytest.mark.parametrize(("width", "stride", "dilation"), [(1, 1, 1), (1, 2, 1), (2, 2, 1), (2, 1, 2)])
def test_conv2d_is_right_to_third_order(width: int, stride: int, dilation: int) -> None:
    tensors = [last(draw(2, 16, 5, 6)), draw(16, width, 3, 3, seed=1), draw(16, seed=2)]
    every = (0, 1, 2)

    def energy(x, w, b):
        return (torch.sin(F.conv2d(x, w, b, stride, 2, dilation, 16 // width)) ** 2).sum()

    def power(gradients):
        return sum((g**3).sum() for g in gradients)

    def second(*a):
        return neo.grad(lambda *b: power(neo.grad(energy, every)(*b)), every)(*a)

    got = neo.grad(lambda *a: power(second(*a)), every)(*[neo.LiteTensor(t) for t in tensors])
    leaves = [t.clone().requires_grad_() for t in tensors]
    gradients = torch.autograd.grad(energy(*leaves), leaves, create_graph=True)
    gradients = torch.autograd.grad(power(gradients), leaves, create_graph=True)
    for found, right in zip(got, torch.autograd.grad(power(gradients), leaves), strict=True):
        assert (found.data - right).norm() <= 1e-9 * right.norm()


def test_threads_change_no_bit() -> None:
    x, weight = last(draw(9, 96, 14, 14)), draw(96, 2, 3, 3)
    geometry = ((1, 1), (1, 1), (1, 1), False, (0, 0), 48)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = own.convolution(x, weight, None, geometry)
            x_bar = own.input_gradient(x, weight, (tuple(x.shape), x.stride()), geometry)
            found.append((y, x_bar, own.weight_gradient(x, x, tuple(weight.shape), geometry)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


operands = st.tuples(
    st.sampled_from([*LAYOUTS, *["channels-last"] * 6]), st.sampled_from([*DTYPES[:2] * 3, *DTYPES[2:4]])
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    operands,
    operands,
    st.tuples(
        st.sampled_from([0, 1, 2]), st.sampled_from([8, 16, 32, 48]), st.integers(0, 5), st.integers(1, 5)
    ),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
)
def test_operands_of_any_layout_dtype_and_device(first, second, shape, width, weight_first) -> None:
    """torch's result, or None, where torch serves: whatever the tensors are."""
    channels = shape[1]
    geometry = ((1, 1), (1, 1), (1, 1), False, (0, 0), channels // width)
    generator = torch.Generator().manual_seed(0)
    x, weight, g = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in (shape, (channels, width, 3, 3), shape)
    )
    x, weight = laid_out(x.to(first[1]), first[0]), laid_out(weight.to(second[1]), second[0])
    g = laid_out(g.to(second[1]), second[0]) if weight_first else g.to(first[1])
    calls = {
        0: lambda: own.convolution(x, weight, None, geometry),
        1: lambda: own.input_gradient(g, weight, (tuple(x.shape), x.stride()), geometry),
        2: lambda: own.weight_gradient(x, g, tuple(weight.shape), geometry),
    }
    for which, call in calls.items():
        found = call()
        if found is None:
            continue
        assert found.device.type == "cpu"
        if which == 0:
            right = torch.convolution(x.double(), weight.double(), None, *geometry)
        else:
            # one of the three gives but its shape
            read = [torch.zeros(t.shape) if k == which else t for k, t in enumerate((g, x, weight))]
            mask = [which == 1, which == 2, False]
            right = torch.ops.aten.convolution_backward(*(t.double() for t in read), None, *geometry, mask)[
                which - 1
            ]
        size = max(1.0, float(right.abs().max())) if right.numel() else 1.0
        assert found.shape == right.shape
        assert bool(
            ((found.double() - right).abs() <= (1e-4 if found.dtype == torch.float32 else 1e-10) * size).all()
        )
