"""Batch, layer, group and instance normalisation, as they are called."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from neo.autograd._batched import in_transform
from neo.autograd._queries import autocast_enabled
from neo.errors import InPlaceError
from neo.functions import chosen_statistics
from neo.functions.batch_moments import expect_channels, per_channel_shape
from neo.functions.batch_normalization import batch_normalize
from neo.functions.layer_normalization import layer_normalize
from neo.functions.norm_relu_pool import norm_relu_pool
from neo.functions.registry import implements, raw
from neo.kernels import batch_norm as batch_norm_kernels


@implements(F.batch_norm, only=True, name="batch_norm")
def batch_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """Each channel (dim 1) of x brought to mean 0 and variance 1, then scaled by weight and shifted by bias.

    training=True: by the statistics of the batch, biased variance. training=False: by running_mean and running_var.
    Neo never writes in place, so that running statistics are not updated; momentum is there for torch's signature.
    A block of neo.functions.chosen_statistics around the call may choose other statistics.
    Raises: InPlaceError for running statistics with training=True; ValueError for a batch of one value a channel.
    """
    if chosen_statistics.chosen():
        call = chosen_statistics.Call(x, running_mean, running_var, weight, bias, training, momentum, eps)
        return chosen_statistics.applied(call)
    return batch_norm_as_called(x, running_mean, running_var, weight, bias, training, eps)


def batch_norm_as_called(
    x, running_mean=None, running_var=None, weight=None, bias=None, training=False, eps=1e-5
):
    """batch_norm by the statistics that its arguments name, whatever block is around."""
    if x.ndim < 2:
        raise NotImplementedError(
            f"batch_norm: expected an input (n, channels, *space), got shape {tuple(x.shape)}"
        )
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError(
                "batch_norm: training=False normalises by running_mean and running_var, got None; "
                "give them, or pass training=True to use the statistics of the batch"
            )
        given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
        expect_channels("batch_norm: ", x.shape[1], **given)
        return _by_running_statistics(x, running_mean, running_var, weight, bias, eps)
    if running_mean is not None or running_var is not None:
        raise InPlaceError(
            "batch_norm: training=True would update running_mean and running_var in place, and Neo never writes in "
            "place. Pass running_mean=None, running_var=None, and compute running statistics apart."
        )
    if x.numel() == x.shape[1]:
        raise ValueError(
            f"batch_norm: expected more than 1 value per channel when training, got input size {x.shape}"
        )
    expect_channels("batch_norm: ", x.shape[1], weight=weight, bias=bias)
    weight, bias = (
        param if param is None or param.ndim == 1 else param.reshape(-1) for param in (weight, bias)
    )
    if not autocast_enabled() and batch_norm_kernels.ready(raw(x), raw(weight), raw(bias), 1):
        return norm_relu_pool(x, weight, bias, eps, 1, 1.0)
    return batch_normalize(x, weight, bias, eps)


def _by_running_statistics(x, mean, var, weight, bias, eps):
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = per_channel_shape(x)
    return x * scale.reshape(shape) + shift.reshape(shape)


@implements(F.instance_norm, only=True, name="instance_norm")
def instance_norm(
    x,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
):
    """Each channel of each sample of x brought to mean 0 and variance 1, then scaled and shifted."""
    if not use_input_stats:
        return batch_norm_as_called(x, running_mean, running_var, weight, bias, False, eps)
    if running_mean is not None or running_var is not None:
        raise InPlaceError("instance_norm: would update running statistics in place; pass None for them")
    n, c = x.shape[:2]
    y = batch_norm_as_called(x.reshape((1, n * c, *x.shape[2:])), training=True, eps=eps).reshape(
        tuple(x.shape)
    )
    return _affine(y, weight, bias, (1, c) + (1,) * (x.ndim - 2))


@implements(F.group_norm, torch.group_norm, scalars=("eps",))
def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    """The channels of each sample in num_groups groups, each brought to mean 0 and variance 1."""
    n, c = x.shape[:2]
    if c % num_groups:
        raise RuntimeError(f"group_norm: {c} channels do not divide into {num_groups} groups")
    y = _normalized(x.reshape((n, num_groups, c // num_groups * math.prod(x.shape[2:]))), (2,), eps).reshape(
        tuple(x.shape)
    )
    return _affine(y, weight, bias, (1, c) + (1,) * (x.ndim - 2))


@implements(F.layer_norm, torch.layer_norm, scalars=("eps",))
def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    """The last dims, of shape normalized_shape, brought to mean 0 and variance 1, then scaled and shifted."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or tuple(x.shape[x.ndim - len(shape) :]) != shape:
        raise RuntimeError(
            f"layer_norm: normalized_shape {shape} must be the last dims of the input, {tuple(x.shape)}"
        )
    params = [p for p in (weight, bias) if p is not None]
    if (
        type(eps) is float
        and x.dtype in (torch.float32, torch.float64)
        and all(p.dtype is x.dtype and tuple(p.shape) == shape and p.device == x.device for p in params)
        and x.numel()
        and not in_transform()
    ):
        return layer_normalize(x, weight, bias, shape, eps)
    return _affine(_normalized(x, tuple(range(-len(shape), 0)), eps), weight, bias, shape)


@implements(F.rms_norm, torch.rms_norm, scalars=("eps",))
def rms_norm(x, normalized_shape, weight=None, eps=None):
    """x / √(⟨x²⟩ + eps) over the last dims, of shape normalized_shape, times weight; eps by default the dtype's own.

    Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or tuple(x.shape[x.ndim - len(shape) :]) != shape:
        raise RuntimeError(
            f"rms_norm: normalized_shape {shape} must be the last dims of the input, {tuple(x.shape)}"
        )
    if x.dtype in (torch.float16, torch.bfloat16):  # as in torch: in float32 within, and given in x's dtype
        weight = weight if weight is None else weight.float()
        return rms_norm(x.float(), shape, weight, eps).to(x.dtype)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    if weight is not None and tuple(weight.shape) != shape:
        raise RuntimeError(
            f"rms_norm: expected a weight of the same shape as normalized_shape, {shape}, got {tuple(weight.shape)}"
        )
    y = x * torch.rsqrt((x * x).mean(tuple(range(-len(shape), 0)), True) + eps) if x.numel() else x
    return y if weight is None else y * weight


@implements(torch.native_group_norm, scalars=("eps",))
def native_group_norm(x, weight, bias, n, c, space, group, eps):
    """(group_norm, mean, 1 / √(variance + eps)), the last two (n, groups), as aten spells it."""
    rows = x.reshape((n, group, c // group * space))
    mean = rows.mean(2, True)
    scale = torch.rsqrt(((rows - mean) ** 2).mean(2, True) + eps)
    return group_norm(x, group, weight, bias, eps), mean.squeeze(2), scale.squeeze(2)


@implements(F.local_response_norm, scalars=("alpha", "beta", "k"))
def local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0):
    """x / (k + α ⟨x²⟩)^β, the mean over `size` neighbouring channels (dim 1), those beyond the ends 0.

    Krizhevsky et al. 2012, section 3.3.
    """
    if x.ndim < 3:
        raise ValueError(
            f"local_response_norm: Expected 3D or higher dimensionality input (got {x.ndim} dimensions)"
        )
    if not x.numel():
        return x
    rows = (x * x).reshape((x.shape[0], 1, x.shape[1], -1))
    rows = F.pad(rows, (0, 0, size // 2, (size - 1) // 2))
    means = F.avg_pool2d(rows, (size, 1), 1).reshape(tuple(x.shape))
    return x / (means * alpha + k) ** beta


@implements(torch.norm_except_dim, only=True, name="norm_except_dim")
def norm_except_dim(v, pow=2, dim=0):
    """‖v‖_pow over every dim but one, which keeps its size; the others have size 1. dim = -1: over all, a scalar."""
    if dim == -1:
        return torch.linalg.vector_norm(v, pow)
    kept = dim % v.ndim
    return torch.linalg.vector_norm(v, pow, [d for d in range(v.ndim) if d != kept], True)


@implements(torch._weight_norm, only=True)
def weight_norm(v, g, dim=0):
    """g v / ‖v‖, the norm over every dim but one: what torch.nn.utils.weight_norm and its parametrization call.

    Salimans and Kingma 2016, arXiv:1602.07868, equation 2. NaN where v is 0, as torch has it.
    """
    return v * (g / norm_except_dim(v, 2, dim))


def _normalized(x, dims, eps):
    away = x - x.mean(dims, True)
    return away * torch.rsqrt((away * away).mean(dims, True) + eps)


def _affine(y, weight, bias, shape):
    if weight is not None:
        y = y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)
