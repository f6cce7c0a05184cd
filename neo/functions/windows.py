"""Pooling beyond plain windows in the plane: volumes, adaptive and fractional cells, power means, and unpooling."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from neo.autograd.tensor import LiteTensor
from neo.draws import noise_generator
from neo.functions._linear_map import linear_map
from neo.functions.convolution import per_dim
from neo.functions.pooling import avg_pool1d, avg_pool2d, max_pool1d, max_pool2d
from neo.functions.registry import implements, lite, raw
from neo.guards import require

# --- maxima: a kernel finds the places, and reading there is differentiable; ties go to the place it found ------


def _largest(x: Any, find: Any, count: int, return_indices: bool) -> Any:
    """The entries of x, over its last `count` dims, at the places that find(x) gives as its second value."""
    places = find(raw(x))[1]
    y = torch.gather(x.flatten(-count), -1, places.flatten(-count)).reshape(tuple(places.shape))
    if not return_indices:
        return y
    return y, lite(places) if isinstance(x, LiteTensor) else places


def _size(output_size: Any, x: Any, count: int) -> tuple[int, ...]:
    """One size for each of the last `count` dims; None keeps that of x."""
    sizes = (output_size,) * count if output_size is None or isinstance(output_size, int) else output_size
    kept = tuple(x.shape)[-count:]
    return tuple(n if size is None else size for size, n in zip(sizes, kept, strict=True))


def _strides(stride: Any, kernel: tuple[int, ...]) -> tuple[int, ...]:
    return kernel if stride is None or stride == [] or stride == () else per_dim(stride, len(kernel))


@implements(F.max_pool3d, torch.max_pool3d)
def max_pool3d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The largest of each window of x (n, c, d, h, w) or (c, d, h, w); with return_indices its place in d*h*w."""
    kernel = per_dim(kernel_size, 3)
    window = (kernel, _strides(stride, kernel), per_dim(padding, 3), per_dim(dilation, 3), bool(ceil_mode))
    return _largest(x, lambda t: torch._C._nn.max_pool3d_with_indices(t, *window), 3, return_indices)


@implements(F.max_pool3d_with_indices)
def max_pool3d_with_indices(
    x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=True
):
    """max_pool3d, and where in d*h*w each maximum stood."""
    return max_pool3d(x, kernel_size, stride, padding, dilation, ceil_mode, True)


@implements(F.adaptive_max_pool1d)
def adaptive_max_pool1d(x, output_size, return_indices=False):
    """The largest of each of output_size cells of x (n, c, l) or (c, l)."""
    size = per_dim(output_size, 1)
    return _largest(x, lambda t: torch.adaptive_max_pool1d(t, size), 1, return_indices)


@implements(F.adaptive_max_pool2d)
def adaptive_max_pool2d(x, output_size, return_indices=False):
    """The largest of each of output_size cells of x (n, c, h, w) or (c, h, w); None keeps a size."""
    size = _size(output_size, x, 2)
    return _largest(x, lambda t: torch._C._nn.adaptive_max_pool2d(t, size), 2, return_indices)


@implements(F.adaptive_max_pool3d)
def adaptive_max_pool3d(x, output_size, return_indices=False):
    """The largest of each of output_size cells of x (n, c, d, h, w) or (c, d, h, w); None keeps a size."""
    size = _size(output_size, x, 3)
    return _largest(x, lambda t: torch._C._nn.adaptive_max_pool3d(t, size), 3, return_indices)


@implements(F.adaptive_max_pool1d_with_indices, torch.adaptive_max_pool1d, only=True)
def adaptive_max_pool1d_with_indices(x, output_size, return_indices=True):
    return adaptive_max_pool1d(x, output_size, True)


@implements(F.adaptive_max_pool2d_with_indices)
def adaptive_max_pool2d_with_indices(x, output_size, return_indices=True):
    return adaptive_max_pool2d(x, output_size, True)


@implements(F.adaptive_max_pool3d_with_indices)
def adaptive_max_pool3d_with_indices(x, output_size, return_indices=True):
    return adaptive_max_pool3d(x, output_size, True)


def _fractional(x, kernel_size, output_size, output_ratio, return_indices, samples, count, kernel_function):
    """Windows whose starts are drawn, one number a dim in `samples`. Graham 2014, arXiv:1412.6071."""
    name = f"fractional_max_pool{count}d"
    if output_size is None:
        if output_ratio is None:
            raise ValueError(f"{name} requires specifying either an output_size or an output_ratio")
        ratios = (output_ratio,) * count if isinstance(output_ratio, float | int) else output_ratio
        output_size = [int(n * ratio) for n, ratio in zip(x.shape[-count:], ratios, strict=True)]
    if samples is None:
        batch = 1 if x.ndim == count + 1 else x.shape[0]
        shape = (batch, x.shape[-count - 1], count)
        samples = torch.rand(shape, dtype=x.dtype, device=x.device, generator=noise_generator(x.device))
    kernel, size, samples = per_dim(kernel_size, count), per_dim(output_size, count), raw(samples)
    return _largest(x, lambda t: kernel_function(t, kernel, size, samples), count, return_indices)


@implements(F.fractional_max_pool2d)
def fractional_max_pool2d(
    x, kernel_size, output_size=None, output_ratio=None, return_indices=False, _random_samples=None
):
    """The largest of windows at random steps, so that output_size need not divide the size. Arguments as torch's."""
    kernel = torch._C._nn.fractional_max_pool2d
    return _fractional(x, kernel_size, output_size, output_ratio, return_indices, _random_samples, 2, kernel)


@implements(F.fractional_max_pool3d)
def fractional_max_pool3d(
    x, kernel_size, output_size=None, output_ratio=None, return_indices=False, _random_samples=None
):
    """The largest of windows at random steps, in three dims."""
    kernel = torch._C._nn.fractional_max_pool3d
    return _fractional(x, kernel_size, output_size, output_ratio, return_indices, _random_samples, 3, kernel)


@implements(F.fractional_max_pool2d_with_indices)
def fractional_max_pool2d_with_indices(
    x, kernel_size, output_size=None, output_ratio=None, return_indices=True, _random_samples=None
):
    return fractional_max_pool2d(x, kernel_size, output_size, output_ratio, True, _random_samples)


@implements(F.fractional_max_pool3d_with_indices)
def fractional_max_pool3d_with_indices(
    x, kernel_size, output_size=None, output_ratio=None, return_indices=True, _random_samples=None
):
    return fractional_max_pool3d(x, kernel_size, output_size, output_ratio, True, _random_samples)


# --- unpooling -----------------------------------------------------------------------------------------------


def _unpool(x, indices, kernel_size, stride, padding, output_size, count):
    """Zeros with x at the places its maxima came from: the adjoint of reading there."""
    name, kernel = f"max_unpool{count}d", per_dim(kernel_size, count)
    steps, padding = _strides(stride, kernel), per_dim(padding, count)
    default = [
        (n - 1) * s + k - 2 * p for n, s, k, p in zip(x.shape[-count:], steps, kernel, padding, strict=True)
    ]
    size = default if output_size is None else list(output_size)[-count:]
    for d, (n, usual, step) in enumerate(zip(size, default, steps, strict=True)):
        if not usual - step < n < usual + step and output_size is not None:
            raise ValueError(
                f'{name}: invalid output_size "{output_size}" (dim {d} must be between {usual - step} and '
                f"{usual + step})"
            )
    if tuple(indices.shape) != tuple(x.shape):
        raise RuntimeError(
            f"{name}: Expected shape of indices to be same as that of the input tensor ({tuple(x.shape)}), but got "
            f"{tuple(indices.shape)}"
        )
    places = raw(indices).flatten(-count)
    lead = tuple(x.shape)[:-count]
    total = math.prod(size)
    require(
        ((places >= 0) & (places < total)).all(),
        lambda: RuntimeError(
            f"{name}: found an invalid max index, outside output volumes of size {tuple(size)}"
        ),
    )
    zeros = torch.zeros((*lead, total), dtype=x.dtype, device=x.device)
    return torch.scatter(zeros, -1, places, x.flatten(-count)).reshape((*lead, *size))


@implements(F.max_unpool1d)
def max_unpool1d(x, indices, kernel_size, stride=None, padding=0, output_size=None):
    """x (n, c, l) or (c, l) put back where max_pool1d took it, by its indices; 0 elsewhere."""
    return _unpool(x, indices, kernel_size, stride, padding, output_size, 1)


@implements(F.max_unpool2d)
def max_unpool2d(x, indices, kernel_size, stride=None, padding=0, output_size=None):
    """x (n, c, h, w) or (c, h, w) put back where max_pool2d took it, by its indices; 0 elsewhere."""
    return _unpool(x, indices, kernel_size, stride, padding, output_size, 2)


@implements(F.max_unpool3d)
def max_unpool3d(x, indices, kernel_size, stride=None, padding=0, output_size=None):
    """x (n, c, d, h, w) or (c, d, h, w) put back where max_pool3d took it, by its indices; 0 elsewhere."""
    return _unpool(x, indices, kernel_size, stride, padding, output_size, 3)


# --- means ---------------------------------------------------------------------------------------------------

_avg_pool3d_backward = torch.ops.aten.avg_pool3d_backward.default
_adaptive_avg_pool3d_backward = torch.ops.aten._adaptive_avg_pool3d_backward.default


@implements(F.avg_pool3d)
def avg_pool3d(
    x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """The mean of each window of x (n, c, d, h, w) or (c, d, h, w); linear in x."""
    kernel, shape = per_dim(kernel_size, 3), tuple(x.shape)
    steps = _strides(stride, kernel)
    window = (kernel, steps, per_dim(padding, 3), bool(ceil_mode), bool(count_include_pad), divisor_override)
    return linear_map(
        x,
        lambda t: torch._C._nn.avg_pool3d(t, *window),
        lambda g: _avg_pool3d_backward(g, g.new_empty(shape), *window),
    )


@implements(F.adaptive_avg_pool3d)
def adaptive_avg_pool3d(x, output_size):
    """The mean of each of output_size cells of x (n, c, d, h, w) or (c, d, h, w); None keeps a size."""
    size, shape = _size(output_size, x, 3), tuple(x.shape)
    return linear_map(
        x,
        lambda t: torch._C._nn.adaptive_avg_pool3d(t, size),
        lambda g: _adaptive_avg_pool3d_backward(g, g.new_empty(shape)),
    )


def _power_mean(x, p, kernel_size, stride, ceil_mode, count, mean, largest):
    """(Σ xᵖ)^(1/p) over windows; p may be ±inf, the largest and the smallest |x|. Negative sums count as 0."""
    if abs(p) == float("inf"):
        sign = 1 if p > 0 else -1
        return largest(torch.abs(x) * sign, kernel_size, stride, 0, 1, ceil_mode) * sign
    entries = math.prod(per_dim(kernel_size, count))
    y = mean(x**p, kernel_size, stride, 0, ceil_mode)
    return (torch.relu(y) * entries) ** (1 / p)


@implements(F.lp_pool1d, scalars=("norm_type",))
def lp_pool1d(x, norm_type, kernel_size, stride=None, ceil_mode=False):
    """(Σ xᵖ)^(1/p) over windows of x (n, c, l) or (c, l), p = norm_type."""
    return _power_mean(x, norm_type, kernel_size, stride, ceil_mode, 1, avg_pool1d, max_pool1d)


@implements(F.lp_pool2d, scalars=("norm_type",))
def lp_pool2d(x, norm_type, kernel_size, stride=None, ceil_mode=False):
    """(Σ xᵖ)^(1/p) over windows of x (n, c, h, w) or (c, h, w), p = norm_type."""
    return _power_mean(x, norm_type, kernel_size, stride, ceil_mode, 2, avg_pool2d, max_pool2d)


@implements(F.lp_pool3d, scalars=("norm_type",))
def lp_pool3d(x, norm_type, kernel_size, stride=None, ceil_mode=False):
    """(Σ xᵖ)^(1/p) over windows of x (n, c, d, h, w) or (c, d, h, w), p = norm_type."""
    return _power_mean(x, norm_type, kernel_size, stride, ceil_mode, 3, avg_pool3d, max_pool3d)
