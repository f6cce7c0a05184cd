"""Batch, layer, group and instance normalisation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.errors import InPlaceError
from neo.functions._batch_statistics import expect_channels, normalized, normalized_gradient
from neo.functions.registry import implements


class BatchNorm(Policy):
    """y = w x̂ + b,  x̂ = r (x − μ), μ and 1/r² the mean and variance + eps of each channel over the batch;
    (x̄, w̄, b̄) = batch_norm_gradient(ȳ, x, w).

    μ and r are marked constant: the rule of the gradient counts in that they come from x.
    """

    verified = True

    def forward(self, x, weight, bias, eps):
        y, mean, scale = normalized(x, weight, bias, eps)
        self.ctx.constant(mean, scale)
        self.ctx.save(x, weight, mean, scale, eps)
        return y

    def backward(self, y_bar):
        x, weight, mean, scale, eps = self.ctx.release
        x_bar, w_bar, b_bar = batch_norm_gradient(y_bar, x, weight, mean, scale, eps)
        if weight is not None:
            return (x_bar, w_bar, b_bar)[: len(self.ctx.needs_grad)]
        return (x_bar, b_bar)[: len(self.ctx.needs_grad)]


class BatchNormGradient(Policy):
    """x̄ = w r (g − ⟨g⟩ − x̂ ⟨g x̂⟩),  w̄ = Σ g x̂,  b̄ = Σ g;  ⟨⟩ is the mean and Σ the sum over a channel.

    With cotangents (X, W, B) for them, P(h) = r (h − ⟨h⟩ − x̂ ⟨h x̂⟩), n entries a channel:
    ḡ = w P(X) + W x̂ + B
    x̄ = P(W g − w r (X ⟨g x̂⟩ + g ⟨X x̂⟩)) − w r² a x̂ / n
    w̄ = r a,  a = Σ X g − ΣX Σg / n − ΣX x̂ Σg x̂ / n
    """

    verified = True

    def forward(self, g, x, weight, mean, scale, eps):
        out = normalized_gradient(g, x, weight, mean, scale, eps)
        self.ctx.save(g, x, weight, mean, scale, out[1], out[2], eps)
        return out

    def backward(self, X, W, B):
        g, x, weight, mean, scale, sum_gx, sum_g, eps = self.ctx.release
        needs = self.ctx.needs_grad
        need_g, need_x = needs[0], needs[1]
        n = x.numel() // x.shape[1]
        per_channel = (1, -1) + (1,) * (x.ndim - 2)
        P_X, sum_Xx, sum_X = batch_norm_gradient(X, x, weight, mean, scale, eps)
        if isinstance(
            x, LiteTensor
        ):  # third order: μ and r as functions of x, which above counted as constants
            mean, scale = batch_statistics(x, eps)
        a = (X * g).sum((0, *range(2, x.ndim))) - (sum_X * sum_g + sum_Xx * sum_gx) / n
        wr = scale if weight is None else weight * scale
        g_bar = x_bar = None
        if need_g:
            slope = W * scale
            g_bar = torch.addcmul(
                P_X + (B - slope * mean).reshape(per_channel), x, slope.reshape(per_channel)
            )
        if need_x:
            # x̄ is linear in g, X and x̂: a coefficient for each, channel by channel, from sums that are there already.
            of_g = W - wr * sum_Xx / n
            of_X = -wr * sum_gx / n
            of_x = -(of_g * sum_gx + of_X * sum_Xx + wr * a) * scale * scale / n
            rest = -(of_g * sum_g + of_X * sum_X) * scale / n - of_x * mean
            x_bar = torch.addcmul(rest.reshape(per_channel), g, (of_g * scale).reshape(per_channel))
            x_bar = torch.addcmul(x_bar, X, (of_X * scale).reshape(per_channel))
            x_bar = torch.addcmul(x_bar, x, of_x.reshape(per_channel))
        w_bar = () if weight is None else (scale * a,)
        return (g_bar, x_bar, *w_bar, None, None)


def batch_statistics(x, eps):
    """Mean and 1/√(variance + eps) of each channel, as functions of x."""
    dims = (0, *range(2, x.ndim))
    away = x - x.mean(dims, True)
    return x.mean(dims), torch.rsqrt((away * away).mean(dims) + eps)


batch_normalize, batch_norm_gradient = (
    function(BatchNorm, "batch_norm"),
    function(BatchNormGradient, "batch_norm_gradient"),
)


@implements(F.batch_norm, only=True, name="batch_norm")
def batch_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """Each channel (dim 1) of x brought to mean 0 and variance 1, then scaled by weight and shifted by bias.

    training=True: by the statistics of the batch, biased variance. training=False: by running_mean and running_var.
    Neo never writes in place, so that running statistics are not updated; momentum is there for torch's signature.
    Raises: InPlaceError for running statistics with training=True; ValueError for a batch of one value a channel.
    """
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
    return batch_normalize(x, weight, bias, eps)


def _by_running_statistics(x, mean, var, weight, bias, eps):
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    per_channel = (1, -1) + (1,) * (x.ndim - 2)
    return x * scale.reshape(per_channel) + shift.reshape(per_channel)


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
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None or running_var is not None:
        raise InPlaceError("instance_norm: would update running statistics in place; pass None for them")
    n, c = x.shape[:2]
    y = batch_norm(x.reshape((1, n * c, *x.shape[2:])), training=True, eps=eps).reshape(tuple(x.shape))
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
