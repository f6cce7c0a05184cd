"""Arguments for every Policy that names a composition, by Policy: those on torch's kernels and those on Neo's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

import neo
from neo import kernels
from neo.autograd import Policy
from neo.functions import attention_core as core
from neo.functions import batch_normalization as bn
from neo.functions import blocks, first_block, fused, linalg, losses, recurrence
from neo.functions import layer_normalization as ln
from neo.functions.norm_relu_pool import BatchNormReLUMaxPool, NormReLUPool, NormReLUPoolGradient
from neo.functions.perceptron import Perceptron, PerceptronGradient, layer_by_layer
from neo.functions.registry import raw
from neo.kernels import attention as kernel
from neo.kernels import batch_norm as norm_kernels
from neo.kernels import block as block_kernels
from neo.kernels import first as first_kernels

__all__ = ["ON_OWN_KERNELS", "ON_TORCH", "Samples", "composed_samples"]

Samples = Callable[[], Iterator[tuple]]
EPS = 1e-5
SLOPES = (0.0, 0.1, 1.0)  # of a ReLU, of a leaky one, of none


class Draw:
    """float64 tensors: `lite` ones are differentiated, plain ones are constants."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def image(self, *shape: int, last: bool = True) -> torch.Tensor:
        layout = torch.channels_last if last else torch.contiguous_format
        return self(*shape).contiguous(memory_format=layout)

    def lite(self, *shape: int) -> neo.LiteTensor:
        return neo.LiteTensor(self(*shape))

    def like(self, value: Any) -> neo.LiteTensor:
        """In the shape and layout of value."""
        return neo.LiteTensor(torch.empty_like(raw(value)).copy_(self(*value.shape)))


# --- batch norm -----------------------------------------------------------------------------------------------------


def lstm_recurrence() -> Iterator[tuple]:
    for seed, steps in enumerate((1, 3)):
        draw = Draw(seed)
        yield draw.lite(2 * steps, 12), draw.lite(2, 3), draw.lite(2, 3), draw.lite(12, 3)


def lstm_gradient() -> Iterator[tuple]:
    for given in (True, False):
        draw = Draw(5)
        yield draw.lite(2, 3), draw.lite(2, 3) if given else None, draw.lite(2, 12), draw.lite(2, 3)


def perceptron() -> Iterator[tuple]:
    for seed, (sizes, kinds) in enumerate(
        [
            ((2, 3), "-"),
            ((3, 4, 2), "t-"),
            ((1, 4, 3, 1), "rt-"),
            ((2, 3, 3, 2), "s-t"),
            ((3, 5, 4, 2), "tss"),
        ]
    ):
        draw = Draw(seed)
        weights = [draw.lite(b, a) for a, b in itertools.pairwise(sizes)]
        biases = [draw.lite(b) for b in sizes[1:]]
        yield kinds, True, draw.lite(1 + seed, sizes[0]), *weights, *biases
        yield kinds, True, draw(1 + seed, sizes[0]), *weights, *map(raw, biases)
        yield kinds, True, draw.lite(1 + seed, sizes[0]), *map(raw, weights), *biases


def perceptron_gradient() -> Iterator[tuple]:
    """The outputs are inputs of their own: what depends on x through them goes back through the net itself."""
    for kinds, every, x, *layers in perceptron():
        count, weights = len(kinds), layers[: len(kinds)]
        outputs = layer_by_layer(kinds, every, raw(x), *map(raw, layers))
        draw = Draw(5)
        given = [neo.LiteTensor(h) for h in (outputs[:-1] if kinds[-1] == "-" else outputs)]
        bars = [draw.like(h) for h in outputs]
        last_alone = [*[None] * (count - 1), bars[-1]]
        each, none = (True,) * count, (False,) * count
        for mask in (
            (True, *each, *each),
            (False, *each, *each),
            (False, *each, *none),
            (True, *none, *none),
        ):
            yield kinds, mask, x, *weights, *given, *bars
        of_last = (*none[1:], True)
        yield kinds, (False, *of_last, *of_last), x, *weights, *given, *bars
        yield kinds, (True, *each, *each), x, *weights, *given, *last_alone
        yield kinds, (False, *each, *each), x, *weights, *map(raw, given), *last_alone


def product_sum() -> Iterator[tuple]:
    for seed, (lead, transposed) in enumerate(
        (((5,), (False, False)), ((5,), (True, True)), ((2, 3), (False, True)))
    ):
        draw = Draw(seed)
        a = (2, *lead) if transposed[0] else (*lead, 2)
        b = (4, 2) if transposed[1] else (2, 4)
        pairs = draw.lite(*a), draw.lite(*b), draw.lite(*a), draw.lite(*b)
        yield *pairs, None, *transposed
        yield *pairs, draw.lite(4), *transposed
        yield *pairs[:2], raw(pairs[2]), pairs[3], raw(draw.lite(4)), *transposed
    draw = Draw(3)  # a sum over the rows of both dims, as of the tangent of a weight's gradient
    yield draw.lite(2, 3, 2), draw.lite(2, 3, 4), draw.lite(2, 3, 2), draw.lite(2, 3, 4), None, True, False


def batch_product_sum() -> Iterator[tuple]:
    for seed, lead in enumerate(((3,), (2, 2))):
        draw = Draw(seed)
        a, b, c, d = (draw.lite(*lead, *matrix) for matrix in ((2, 3), (3, 4)) * 2)
        yield a, b, c, d
        yield a, raw(b), raw(c), d


def layer_norm() -> Iterator[tuple]:
    for seed, (lead, shape) in enumerate((((5,), (4,)), ((2, 3), (3, 2)), ((), (6,)))):
        for weighted, shifted in ((True, True), (False, True), (True, False), (False, False)):
            draw = Draw(seed)
            weight, bias = (draw.lite(*shape) if one else None for one in (weighted, shifted))
            yield draw.lite(*lead, *shape), weight, bias, shape, 0.1


def layer_norm_gradient() -> Iterator[tuple]:
    for x, weight, bias, shape, eps in layer_norm():
        _, mean, scale = torch.native_layer_norm(raw(x), shape, None, None, eps)
        for mask in (
            (True, weight is not None, bias is not None),
            (True, False, False),
            (False, weight is not None, True),
        ):
            if any(mask):
                yield Draw(9).like(x), x, weight, mean, scale, shape, eps, mask


SHAPES = [(7, 3), (4, 3, 5), (5, 3, 6, 6)]


def batch_norm() -> Iterator[tuple]:
    for seed, shape in enumerate(SHAPES):
        for weighted, shifted in ((True, True), (False, True), (True, False), (False, False)):
            draw = Draw(seed)
            yield (
                draw.lite(*shape),
                draw.lite(3) if weighted else None,
                draw.lite(3) if shifted else None,
                EPS,
            )
    draw = Draw(9)  # channels-last, with enough pixels for sums in pieces
    yield neo.LiteTensor(draw.image(3, 2, 12, 12)), draw.lite(2), draw.lite(2), EPS


def batch_norm_gradient() -> Iterator[tuple]:
    for x, weight, _, eps in batch_norm():
        mean, scale = bn.batch_statistics(x.data, eps)
        g = Draw(5).like(x)
        yield g, x, weight, mean, scale, eps


def norm_relu_pool_on_torch() -> Iterator[tuple]:
    for seed, (window, size) in enumerate([(1, 5), (2, 6), (3, 7)]):
        for last in (True, False):
            draw = Draw(seed)
            x = neo.LiteTensor(draw.image(3, 3, size, size, last=last))
            for weight, slope in itertools.product((draw.lite(3), None), SLOPES):
                yield x, weight, draw.lite(3), EPS, window, slope


def norm_relu_pool() -> Iterator[tuple]:
    for seed, (window, size) in enumerate([(1, 5), (2, 6), (2, 7), (3, 7)]):
        draw = Draw(seed)
        x = neo.LiteTensor(draw.image(3, 8, size, size))
        for weight, slope in itertools.product((draw.lite(8), None), SLOPES):
            yield x, weight, draw.lite(8), EPS, window, slope


def norm_relu_pool_gradient() -> Iterator[tuple]:
    for x, weight, bias, eps, window, slope in norm_relu_pool():
        y, place, mean, scale = norm_kernels.norm(raw(x), raw(weight), raw(bias), eps, window, slope)
        yield Draw(5).like(y), x, weight, mean, scale, y, place, eps, window, slope


# --- blocks ---------------------------------------------------------------------------------------------------------


def conv_norm_relu_pool() -> Iterator[tuple]:
    """A constant bias: its gradient is 0 for cotangents of z as the block's gradient has them, and not for any."""
    for seed, (stride, window, size) in enumerate([(1, 1, 5), (2, 1, 7), (1, 2, 6), (2, 2, 9)]):
        draw = Draw(seed)
        x, weight = neo.LiteTensor(draw.image(2, 8, size, size)), neo.LiteTensor(draw.image(8, 8, 3, 3) / 8)
        for slope in SLOPES:
            yield x, weight, draw(8), draw.lite(8), draw.lite(8), EPS, stride, window, slope
        yield x, weight, None, None, draw.lite(8), EPS, stride, window, 0.0
        yield x.data, weight, None, draw.lite(8), draw.lite(8), EPS, stride, window, 0.0
        yield x, weight.data, None, draw.lite(8), draw.lite(8), EPS, stride, window, 0.1


def conv_norm_relu_pool_gradient() -> Iterator[tuple]:
    """z is an input of its own: what depends on x through it goes back through the block itself."""
    for *arguments, eps, stride, window, slope in conv_norm_relu_pool():
        x, weight, bias, gamma, _ = arguments
        block = block_kernels.forward(*map(raw, arguments), eps, stride, window, slope)
        given = block._replace(x=x, weight=weight, gamma=gamma, z=neo.LiteTensor(block.z))
        y_bar, z_bar = Draw(5).like(block.y), Draw(6).like(block.z)
        mask = (isinstance(x, neo.LiteTensor), isinstance(weight, neo.LiteTensor))
        yield y_bar, None if bias is None else z_bar, given, eps, mask


def first_blocks() -> Iterator[tuple]:
    for planes, (stride, window, slope) in enumerate(
        [(1, 1, 0.0), (2, 1, 0.1), (1, 2, 0.0), (2, 2, 0.1), (1, 1, 1.0)], start=1
    ):
        draw = Draw(planes)
        planes = min(planes, first_kernels.MOST_PLANES)
        images = first_kernels.Images(draw(3, planes, 7, 6).abs(), stride, window, slope)
        weight = neo.LiteTensor(draw(8, planes, 3, 3) / 3)
        for gamma in (draw.lite(8), None):
            yield weight, draw.lite(8), gamma, draw.lite(8), EPS, images


def first_block_gradient() -> Iterator[tuple]:
    for weight, _, gamma, beta, eps, images in first_blocks():
        y, place = first_kernels.first(images, raw(weight), raw(gamma), raw(beta), eps)
        yield Draw(5).like(y), weight, gamma, y, place, eps, images


def correlate() -> Iterator[tuple]:
    for y_bar, _, _, y, place, _, images in first_block_gradient():
        yield y_bar, y, place, images


def spread() -> Iterator[tuple]:
    for _, y, place, images in correlate():
        taps = 9 * images.x.shape[1]
        yield Draw(6).lite(taps + 1, y.shape[1]), y, place, images


# --- the rest -------------------------------------------------------------------------------------------------------


def pixel_means() -> Iterator[tuple]:
    for seed, pixels in enumerate([(1, 1), (2, 3), (9, 9)]):
        yield (neo.LiteTensor(Draw(seed).image(3, 8, *pixels)),)


def spread_means() -> Iterator[tuple]:
    for seed, pixels in enumerate([(1, 1), (2, 3), (9, 9)]):
        yield Draw(seed).lite(3, 8), *pixels


def patches_linear() -> Iterator[tuple]:
    draw = Draw(0)
    for bias in (draw.lite(4), None):
        yield draw(2 * 3 * 5, 2 * 9), draw.lite(4, 2, 3, 3), bias, (2, 3, 5)


def cross_entropy() -> Iterator[tuple]:
    for reduction in (0, 1, 2):
        for seed, target in enumerate([[0, 2, 1, 1], [0, -100, 3, -100]]):
            yield Draw(seed).lite(4, 4), torch.tensor(target), reduction, -100


def cross_entropy_gradient() -> Iterator[tuple]:
    for x, target, reduction, ignored in cross_entropy():
        log_p = F.log_softmax(x.data, 1)
        count = (target != ignored).sum().double() if reduction == 1 else torch.zeros((), dtype=torch.float64)
        g = Draw(7).lite(4) if reduction == 0 else Draw(7).lite()
        yield g, x, target, log_p, count, reduction, ignored


def layer_norm_tangent() -> Iterator[tuple]:
    for x, weight, bias, shape, eps in layer_norm():
        _, mean, scale = torch.native_layer_norm(raw(x), shape, None, None, eps)
        draw = Draw(11)
        x_dot, w_dot, b_dot = (None if one is None else draw.like(one) for one in (x, weight, bias))
        yield x_dot, w_dot, b_dot, x, weight, mean, scale, shape, eps
        yield x_dot, None, None, x, weight, mean, scale, shape, eps
        if w_dot is not None:
            yield None, w_dot, b_dot, x, weight, mean, scale, shape, eps


# --- attention ------------------------------------------------------------------------------------------------------


def attention() -> Iterator[tuple]:
    """heads, places_first, causal, scale, tensors: three stacks, or one of rows."""
    for seed, causal in enumerate((False, True)):
        draw = Draw(seed)
        q, k, v = draw.lite(2, 2, 4, 3), draw.lite(2, 2, 5, 3), draw.lite(2, 2, 5, 2)
        yield 0, False, causal, 0.7, q, k, v
        yield 0, False, causal, 0.7, raw(q), k, raw(v)
        yield 0, False, causal, 0.7, q, raw(k), v
        yield 2, False, causal, 0.7, draw.lite(2, 4, 12)
        yield 3, True, causal, 0.7, draw.lite(4, 1, 18)


def attention_gradient() -> Iterator[tuple]:
    for heads, places_first, causal, scale, *tensors in attention():
        out, weights = kernel.attention(tuple(map(raw, tensors)), heads, places_first, causal, scale)
        needs = tuple(isinstance(x, neo.LiteTensor) for x in tensors)
        yield heads, places_first, causal, scale, needs, Draw(5).like(out), weights, *tensors


def attention_tangent() -> Iterator[tuple]:
    for heads, places_first, causal, scale, *tensors in attention():
        _, weights = kernel.attention(tuple(map(raw, tensors)), heads, places_first, causal, scale)
        moved = tuple(isinstance(x, neo.LiteTensor) for x in tensors)
        dots = [Draw(6).like(x) for x, one in zip(tensors, moved, strict=True) if one]
        yield heads, places_first, causal, scale, moved, weights, *tensors, *dots


ON_TORCH: dict[type[Policy], Samples] = {
    core.Attention: attention,
    core.AttentionGradient: attention_gradient,
    core.AttentionTangent: attention_tangent,
    recurrence.LSTMRecurrence: lstm_recurrence,
    recurrence.LSTMGradient: lstm_gradient,
    Perceptron: perceptron,
    PerceptronGradient: perceptron_gradient,
    linalg.ProductSum: product_sum,
    linalg.BatchProductSum: batch_product_sum,
    ln.LayerNorm: layer_norm,
    ln.LayerNormGradient: layer_norm_gradient,
    ln.LayerNormTangent: layer_norm_tangent,
    bn.BatchNorm: batch_norm,
    bn.BatchNormGradient: batch_norm_gradient,
    BatchNormReLUMaxPool: norm_relu_pool_on_torch,
    fused.PatchesLinear: patches_linear,
    losses.CrossEntropy: cross_entropy,
    losses.CrossEntropyGradient: cross_entropy_gradient,
}
ON_OWN_KERNELS: dict[type[Policy], Samples] = {
    NormReLUPool: norm_relu_pool,
    NormReLUPoolGradient: norm_relu_pool_gradient,
    blocks.ConvNormReLUPool: conv_norm_relu_pool,
    blocks.ConvNormReLUPoolGradient: conv_norm_relu_pool_gradient,
    first_block.FirstBlock: first_blocks,
    first_block.FirstBlockGradient: first_block_gradient,
    first_block.Correlate: correlate,
    first_block.Spread: spread,
    fused.PixelMeans: pixel_means,
    fused.SpreadMeans: spread_means,
}


def composed_samples() -> dict[type[Policy], Samples]:
    """Those that this build can compute."""
    return {**ON_TORCH, **ON_OWN_KERNELS} if kernels.available() else ON_TORCH
