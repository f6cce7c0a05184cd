"""Blocks on Neo's own kernels against the compositions they stand for: values, and gradients to the third order.

The oracle of batch norm is written out: torch's own rule takes the batch's statistics for constants at third order.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import kernels
from neo.autograd import session
from neo.functions import fused, norm_relu_pool

pytestmark = pytest.mark.skipif(not kernels.available(), reason="built without Neo's own kernels")


def norm(x, weight, bias, eps=1e-5):
    mean = x.mean((0, 2, 3), keepdim=True)
    y = (x - mean) * torch.rsqrt(((x - mean) ** 2).mean((0, 2, 3), keepdim=True) + eps)
    return (y if weight is None else y * weight.reshape(1, -1, 1, 1)) + bias.reshape(1, -1, 1, 1)


def pooled(x, window, slope=0.0):
    y = F.leaky_relu(x, slope)
    return F.max_pool2d(y, window) if window > 1 else y


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


SLOPES = pytest.mark.parametrize("slope", [0.0, 0.1, 1.0], ids=["ReLU", "leaky", "no rectifier"])


@SLOPES
@pytest.mark.parametrize("scaled", [True, False], ids=["scale", "no scale"])
@pytest.mark.parametrize(("window", "size"), [(1, 5), (2, 6), (2, 7), (3, 7)])
def test_norm_relu_pool_equals_its_composition_to_third_order(window, size, scaled, slope) -> None:
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(3, 16, size, size, generator=generator, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(
        16, generator=generator, dtype=torch.float64
    )  # negative ones turn maxima into minima
    bias = torch.randn(16, generator=generator, dtype=torch.float64)

    def own(x, *params):
        weight, bias = params[0] if scaled else None, params[-1]
        return norm_relu_pool.norm_relu_pool(x, weight, bias, 1e-5, window, slope)

    def composed(x, *params):
        return pooled(norm(x, params[0] if scaled else None, params[-1]), window, slope)

    assert_same(own, composed, (x, weight, bias) if scaled else (x, bias))


@pytest.mark.parametrize("scaled", [True, False], ids=["scale", "no scale"])
@pytest.mark.parametrize(("stride", "window"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize(("planes", "slope"), [(1, 0.0), (2, 0.0), (3, 0.1), (4, 0.0), (1, 1.0)])
def test_first_block_equals_its_composition_to_third_order(planes, slope, stride, window, scaled) -> None:
    generator = torch.Generator().manual_seed(planes)
    x = torch.rand(3, planes, 11, 10, generator=generator, dtype=torch.float64)
    weight = torch.randn(16, planes, 3, 3, generator=generator, dtype=torch.float64) / 3
    bias, gamma, beta = torch.randn(3, 16, generator=generator, dtype=torch.float64)

    def own(weight, *rest):
        gamma = rest[0] if scaled else None
        return fused.first_block_of_images(
            x, weight, bias, gamma, rest[-1], stride, window, negative_slope=slope
        )

    def composed(weight, *rest):
        y = F.conv2d(x, weight, bias, stride, 1)
        return pooled(norm(y, rest[0] if scaled else None, rest[-1]), window, slope)

    assert_same(own, composed, (weight, gamma, beta) if scaled else (weight, beta), rtol=1e-8)


@SLOPES
@pytest.mark.parametrize("scaled", [True, False], ids=["scale", "no scale"])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("stride", "window", "size"), [(1, 1, 5), (2, 1, 7), (1, 2, 6), (2, 2, 9)])
def test_conv_block_equals_its_composition_to_third_order(
    stride, window, size, biased, scaled, slope
) -> None:
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(3, 8, size, size, generator=generator, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(16, 8, 3, 3, generator=generator, dtype=torch.float64) / 8
    bias, gamma, beta = torch.randn(3, 16, generator=generator, dtype=torch.float64)

    def of(block):
        def call(x, weight, *rest):
            return block(x, weight, bias if biased else None, rest[0] if scaled else None, rest[-1])

        return call

    own = of(lambda *args: fused.conv_block(*args, stride, window, negative_slope=slope))
    composed = of(
        lambda x, w, b, gamma, beta: pooled(norm(F.conv2d(x, w, b, stride, 1), gamma, beta), window, slope)
    )
    args = (x, weight, gamma, beta) if scaled else (x, weight, beta)
    assert_same(own, composed, args, rtol=1e-8)


@pytest.mark.parametrize("constant", ["x", "weight", "both"])
def test_conv_block_of_constants_equals_its_composition_to_third_order(constant: str) -> None:
    """Gradients that nobody asks for are left out, at every order."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 8, 6, 6, generator=generator, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(8, 8, 3, 3, generator=generator, dtype=torch.float64) / 8
    gamma, beta = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    fixed = {"x": (x,), "weight": (weight,), "both": (x, weight)}[constant]
    free = [t for t in (x, weight, gamma, beta) if not any(t is f for f in fixed)]

    def with_constants(block):
        def call(*given):
            given = iter(given)
            return block(
                *(t if any(t is f for f in fixed) else next(given) for t in (x, weight, gamma, beta))
            )

        return call

    def own(x, weight, gamma, beta):
        if isinstance(x, torch.Tensor):
            x = neo.LiteTensor(x)  # which no session watches
        return fused.conv_block(x, weight, None, gamma, beta, 1, 1)

    def composed(x, weight, gamma, beta):
        return pooled(norm(F.conv2d(x, weight, None, 1, 1), gamma, beta), 1)

    assert_same(with_constants(own), with_constants(composed), free, rtol=1e-8)


@pytest.mark.parametrize("pixels", [(1, 1), (2, 3), (9, 9)])
def test_spatial_mean_equals_the_mean_to_third_order(pixels) -> None:
    x = torch.randn(3, 8, *pixels, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert_same(fused.spatial_mean, lambda x: x.mean((2, 3)), (x,))
    tape = neo.autograd.Tape()
    tape.watch(handle := neo.LiteTensor(x))
    neo.autograd.TapeContext.push(tape)
    fused.spatial_mean(handle)
    neo.autograd.TapeContext.pop()
    assert [node.name for node in tape.nodes] == ["PixelMeans"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_ways_back_of_spatial_mean_serve_any_dtype_and_count(dtype) -> None:
    for channels in (8, 3):
        means, x = torch.randn(2, channels).to(dtype), torch.randn(2, channels, 3, 5).to(dtype)
        spread = fused.spread_means(neo.LiteTensor(means), 3, 5).data
        torch.testing.assert_close(spread, (means / 15)[:, :, None, None].expand(2, channels, 3, 5))
        torch.testing.assert_close(fused.pixel_means(neo.LiteTensor(x)).data, x.mean((2, 3)))


def test_spatial_mean_of_other_layouts_is_torchs() -> None:
    for x in (torch.randn(2, 16, 3, 3), torch.randn(2, 3, 4, 4), torch.randn(0, 16, 2, 2)):
        assert torch.equal(fused.spatial_mean(neo.LiteTensor(x)).data, x.mean((2, 3)))


def test_gradients_inside_vmap_of_what_ran_outside_are_refused_with_a_way_out() -> None:
    net = neo.nn.Conv4(5, hidden=16)
    params, images = net.init(0), torch.rand(4, 1, 28, 28)
    scores = lambda beta: net({**params, "norm1.bias": beta}, images).sum(0)  # noqa: E731
    beta, rows = params["norm1.bias"], torch.eye(5)
    with pytest.raises(RuntimeError, match=r"inside vmap.*Have vmap run the whole"):
        neo.vmap(session.vjp(scores, beta)[1])(rows)
    (jacobian,) = neo.vmap(lambda row: session.vjp(scores, beta)[1](row))(rows)
    torch.testing.assert_close(jacobian.data, neo.jacobian(scores)(beta).data, rtol=1e-4, atol=1e-4)


def test_conv_block_is_one_policy_and_its_gradient_one() -> None:
    x = neo.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    weight, bias, gamma, beta = neo.randn(16, 16, 3, 3), *(neo.randn(16) for _ in range(3))
    tape = neo.autograd.Tape()
    for handle in (x, weight, bias, gamma, beta):
        tape.watch(handle)
    neo.autograd.TapeContext.push(tape)
    try:
        neo.grad(lambda x, w: fused.conv_block(x, w, bias, gamma, beta, 2, 1).sum(), argnums=(0, 1))(
            x, weight
        )
    finally:
        neo.autograd.TapeContext.pop()
    names = [node.name for node in tape.nodes]
    assert names.count("ConvNormReLUPool") == names.count("ConvNormReLUPoolGradient") == 1
    assert not {"Convolution", "InputGradient", "WeightGradient", "NormReLUPool"} & set(names)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w: (x.contiguous(), w),
        lambda x, w: (x[:, :12], w[:, :12]),
        lambda x, w: (x, w[:12]),
        lambda x, w: (x, w[:, :, :1, :1]),
        lambda x, w: (x.double(), w),
        lambda x, w: (x[:1, :, :1, :1].contiguous(memory_format=torch.channels_last), w),
        lambda x, w: (x[:0], w),
    ],
    ids=["contiguous", "12 inputs", "12 outputs", "1x1", "two dtypes", "one value a channel", "no images"],
)
def test_conv_block_leaves_what_the_kernels_do_not_take_to_its_parts(change) -> None:
    x = torch.randn(2, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    x, weight = change(x, torch.randn(16, 16, 3, 3))
    ones = torch.ones(weight.shape[0])
    assert fused.conv_block(neo.LiteTensor(x), neo.LiteTensor(weight), None, ones, ones, 1, 1) is None


@pytest.mark.parametrize("planes", [1, 16])
def test_blocks_give_the_bias_that_the_mean_takes_away_a_gradient_of_zero(planes: int) -> None:
    x, weight = (
        torch.rand(2, planes, 6, 6).contiguous(memory_format=torch.channels_last),
        neo.randn(16, planes, 3, 3),
    )
    bias, beta = neo.randn(16), neo.randn(16)
    loss = lambda bias: (fused.conv_block(x, weight, bias, None, beta, 1, 2) ** 2).sum()  # noqa: E731
    assert neo.grad(loss, argnums=0)(bias).tolist() == [0.0] * 16


@pytest.mark.parametrize("size", [5, 6])
def test_norm_relu_pool_keeps_nan(size: int) -> None:
    x = torch.randn(2, 16, size, size).contiguous(memory_format=torch.channels_last)
    x[0, 3, 1, 1] = torch.nan
    y = norm_relu_pool.norm_relu_pool(x, None, torch.zeros(16), 1e-5, 2, 0.0)
    assert y[:, 3].isnan().all()
    assert not y[:, 4].isnan().any()


def test_norm_relu_pool_keeps_the_digits_of_float32() -> None:
    """60 000 pixels, far from zero: sums in short pieces lose nothing that can be seen."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(75, 16, 28, 28, generator=generator) + 3 * torch.randn(1, 16, 1, 1, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    bias = torch.zeros(16)
    y = norm_relu_pool.norm_relu_pool(x, None, bias, 1e-5, 1, 0.0)
    exact = torch.relu(norm(x.double(), None, bias.double()))
    assert (y - exact).norm() < 3e-7 * exact.norm()
