"""Batch norm's numbers, and its gradient's, from torch's kernels, exact in float32 in any layout.

Torch's channels-last kernels sum all pixels of a channel one after the other in float32: 60 000 of them lose two to
three digits, which a meta-gradient multiplies further. The remedy costs nothing: seen as `pieces * channels` channels
of `pixels / pieces` pixels each, the same memory goes through the same kernels as many short sums, which are then
combined (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance"). Plain layouts are summed in
float64 by torch itself.
"""

from __future__ import annotations

import functools

import torch

from neo.autograd._batched import any_batched, is_batched

MOST_PIECES = 256
FEW_PIXELS = 256  # a channel's sum of so few loses nothing worth a second kernel

_native = torch.native_batch_norm
_backward = torch.ops.aten.native_batch_norm_backward.default


def per_channel_shape(x):
    """In which a number for each channel of x broadcasts to it."""
    return (1, -1) + (1,) * (x.ndim - 2)


def in_pieces(x: torch.Tensor) -> bool:
    """Whether x (n, c, h, w), float32 or float64, is stored channels-last on the CPU, and has many pixels."""
    return (
        x.ndim == 4
        and x.dtype in (torch.float32, torch.float64)
        and x.stride(1) == 1
        and x.numel() > FEW_PIXELS * x.shape[1]
        and x.device.type == "cpu"
        and not is_batched(x)
        and x.is_contiguous(memory_format=torch.channels_last)
    )


@functools.lru_cache(maxsize=256)
def pieces_of(pixels: int) -> int:
    """Into how many equal pieces to cut: the largest divisor up to MOST_PIECES and √pixels."""
    return max(k for k in range(1, min(MOST_PIECES, int(pixels**0.5)) + 1) if pixels % k == 0)


def cut(x: torch.Tensor, pieces: int) -> torch.Tensor:
    """(n, c, h, w), channels-last, seen as (1, pieces * c, pixels / pieces, 1), channels-last too."""
    wide = pieces * x.shape[1]
    return x.as_strided((1, wide, x.numel() // wide, 1), (x.numel(), 1, wide, wide))


def _tiled(row: torch.Tensor, pieces: int) -> torch.Tensor:
    """(c,) as (pieces * c,), several times as fast as repeat."""
    return row.expand(pieces, -1).reshape(-1)


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each channel, (c,) each, of a channels-last x. Reads x once."""
    pieces = pieces_of(x.numel() // x.shape[1])
    means, variances = (
        part.view(pieces, -1) for part in torch.batch_norm_update_stats(cut(x, pieces), None, None, 0.0)
    )
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square_().mean(0)


def expect_channels(where, channels, **params):
    """RuntimeError, in torch's words, for a parameter that does not hold one number for each channel.

    torch.batch_norm asks before it calls its kernels, which do not: they read past the end.
    """
    for name, param in params.items():
        if param is not None and param.numel() != channels:
            raise RuntimeError(f"{where}{name} should contain {channels} elements not {param.numel()}")


def _dense(param):
    """torch's channels-last kernels read a strided parameter as if its numbers lay side by side."""
    return None if param is None else param.contiguous()


def normalized(x, weight, bias, eps):
    """(y, μ, r): y = w r (x − μ) + b, μ the mean of each channel and r = 1/√(variance + eps)."""
    expect_channels("", x.shape[1], weight=weight, bias=bias)
    weight, bias = _dense(weight), _dense(bias)
    if not in_pieces(x):
        return _native(x, weight, bias, None, None, True, 0.0, eps)
    mean, variance = moments(x)
    y = _native(x, weight, bias, mean, variance, False, 0.0, eps)[0]
    return y, mean, torch.rsqrt(variance.add_(eps))


def normalized_gradient(g, x, weight, mean, scale, eps):
    """(x̄, w̄, b̄) = (w r (g − ⟨g⟩ − x̂ ⟨g x̂⟩), Σ g x̂, Σ g) for x̂ = r (x − μ)."""
    weight, mean, scale = _dense(weight), _dense(mean), _dense(scale)
    if any_batched(g, x, weight):
        return _gradient_of_example(g, x, weight, mean, scale)
    if not in_pieces(x):
        return _backward(g, x, weight, None, None, mean, scale, True, eps, [True, True, True])
    g = g.contiguous(memory_format=torch.channels_last)
    pixels = x.numel() // x.shape[1]
    pieces = pieces_of(pixels)
    _, sum_gx, sum_g = _backward(
        cut(g, pieces), cut(x, pieces), None, None, None, _tiled(mean, pieces), _tiled(scale, pieces), True, eps,
        [False, True, True],
    )  # fmt: skip
    sum_gx, sum_g = sum_gx.view(pieces, -1).sum(0), sum_g.view(pieces, -1).sum(0)
    wr = scale if weight is None else weight * scale
    share = wr / -pixels
    x_bar = _native(x, share * sum_gx, share * sum_g, mean, scale.pow(-2), False, 0.0, 0.0)[0]
    return x_bar.addcmul_(g, wr.view(1, -1, 1, 1)), sum_gx, sum_g


def _gradient_of_example(g, x, weight, mean, scale):
    """The same from plain ops, for vmap: torch's batched form of its kernel crashes where weight is None."""
    dims = (0, *range(2, x.ndim))
    shape = per_channel_shape(x)
    pixels = x.numel() // x.shape[1]
    normal = (x - mean.view(shape)) * scale.view(shape)
    sum_gx, sum_g = (g * normal).sum(dims), g.sum(dims)
    wr = scale if weight is None else weight * scale
    rest = g - (normal * sum_gx.view(shape) + sum_g.view(shape)) / pixels
    return rest * wr.view(shape), sum_gx, sum_g
