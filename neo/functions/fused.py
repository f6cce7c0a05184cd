"""Several ops as one Policy, where that saves passes over memory. Each has its plain composition as its test oracle.

A Policy's rule is free to be any formula that is right; these are chosen so that large tensors are read and written as
few times as torch's kernels allow, forward and backward. Models choose them (neo.nn); nothing else changes. Under
torch.autocast, which gives each op a dtype of its own, each is its plain composition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neo import kernels
from neo.autograd._context import autocast_enabled
from neo.autograd.policy import Policy, function
from neo.functions._batch_statistics import normalized
from neo.functions.activations import rectified
from neo.functions.blocks import conv_norm_relu_pool, norm_relu_pool, pixel_means
from neo.functions.first_block import first_block
from neo.functions.normalization import batch_norm_gradient
from neo.functions.pooling import to_places
from neo.functions.registry import raw
from neo.kernels import block as block_kernels
from neo.kernels import first as first_kernels
from neo.kernels.norm import largest_window
from neo.kernels.operands import per_channel

__all__ = [
    "batch_norm_relu",
    "batch_norm_relu_max_pool",
    "conv_block",
    "first_block_of_images",
    "patches_linear",
    "spatial_mean",
]

_max_pool2d = torch.ops.aten.max_pool2d_with_indices.default


class BatchNormReLU(Policy):
    """y = max(bn(x), 0);  with g = ȳ where y > 0, (x̄, w̄, b̄) = batch_norm_gradient(g, x, w).

    The same as batch_norm then relu, but the normalised image is rectified where it lies and not kept beside y.
    """

    verified = True

    def forward(self, x, weight, bias, eps):
        y, mean, scale = normalized(x, weight, bias, eps)
        torch.relu_(y)
        self.ctx.constant(mean, scale)
        self.ctx.save(x, weight, mean, scale, eps, y)
        return y

    def backward(self, y_bar):
        x, weight, mean, scale, eps, y = self.ctx.release
        x_bar, w_bar, b_bar = batch_norm_gradient(rectified(y_bar, y), x, weight, mean, scale, eps)
        return (x_bar, b_bar) if weight is None else (x_bar, w_bar, b_bar)


class BatchNormReLUMaxPool(Policy):
    """y = max over windows of max(bn(x), 0);  g = ȳ where y > 0, at the places of the maxima, through bn's gradient.

    max over windows and max with 0 commute, so that the rectifier, forward and backward, works on the pooled image:
    a quarter of the entries for 2x2 windows.
    """

    verified = True

    def forward(self, x, weight, bias, eps, window):
        normal, mean, scale = normalized(x, weight, bias, eps)
        y, places = _max_pool2d(normal, *window)
        torch.relu_(y)
        self.ctx.constant(mean, scale)
        layout = (tuple(normal.shape), normal.stride())
        self.ctx.save(x, weight, mean, scale, eps, y, places, layout, window)
        return y

    def backward(self, y_bar):
        x, weight, mean, scale, eps, y, places, layout, window = self.ctx.release
        g = to_places(rectified(y_bar, y), places, layout, window)
        x_bar, w_bar, b_bar = batch_norm_gradient(g, x, weight, mean, scale, eps)
        return (x_bar, b_bar) if weight is None else (x_bar, w_bar, b_bar)


_batch_norm_relu = function(BatchNormReLU, "batch_norm_relu")
_batch_norm_relu_max_pool = function(BatchNormReLUMaxPool, "batch_norm_relu_max_pool")


def batch_norm_relu(x, weight, bias, eps=1e-5):
    """relu(batch_norm(x, None, None, weight, bias, training=True)) as one op. x (n, c, ...); weight may be None."""
    if autocast_enabled():
        return torch.relu(F.batch_norm(x, None, None, weight, bias, True, eps=eps))
    if _on_own_kernels(x, weight, bias):
        return norm_relu_pool(x, weight, bias, eps, 1)
    return _batch_norm_relu(x, weight, bias, eps)


def batch_norm_relu_max_pool(x, weight, bias, kernel=2, eps=1e-5):
    """max_pool2d(batch_norm_relu(x, weight, bias), kernel) as one op. x (n, c, h, w); weight may be None."""
    if autocast_enabled():
        return F.max_pool2d(batch_norm_relu(x, weight, bias, eps), kernel)
    if kernel <= largest_window and _on_own_kernels(x, weight, bias) and min(x.shape[2:]) >= kernel:
        return norm_relu_pool(x, weight, bias, eps, kernel)
    window = ((kernel, kernel), (kernel, kernel), (0, 0), (1, 1), False)
    return _batch_norm_relu_max_pool(x, weight, bias, eps, window)


def _on_own_kernels(x, weight, bias):
    image = raw(x)
    return (
        kernels.ready(image)
        and image.numel() > image.shape[1]  # of one value a channel, torch says what is wrong
        and bias is not None
        and all(per_channel(raw(param), image.shape[1], image) for param in (weight, bias))
    )


def spatial_mean(x):
    """mean(x, (2, 3)): the mean over the pixels of each image. x (n, c, h, w)."""
    return pixel_means(x) if kernels.ready(raw(x)) else torch.mean(x, (2, 3))


# --- a convolution of constant images with few channels ------------------------------------------------------------


class PatchesLinear(Policy):
    """y = P Wᵀ + b as an image, P the patches of the images: a convolution as one matrix product;
    W̄ = Ȳᵀ P, b̄ = the sum of Ȳ's rows.

    Images with one or a few channels give patches of a few numbers, on which convolution kernels do badly. P is a
    constant: no image gradient is computed, at any order.
    """

    verified = True

    def forward(self, patches, weight, bias, size):
        self.ctx.save(patches, tuple(weight.shape))
        flat = weight.reshape(weight.shape[0], -1).t()
        y = torch.mm(patches, flat) if bias is None else torch.addmm(bias, patches, flat)
        n, height, width = size
        return y.view(n, height, width, -1).permute(0, 3, 1, 2)  # rows are pixels: channels-last by itself

    def backward(self, y_bar):
        patches, shape = self.ctx.release
        needs = self.ctx.needs_grad
        n = y_bar.shape[0]
        rows = y_bar.permute(0, 2, 3, 1).reshape((n, -1, shape[0]))
        w_bar = None
        if needs[1]:
            # Image by image, then over images: one sum over every pixel would lose three digits. Patches first: the
            # product with few rows is four times as fast as its transpose.
            w_bar = (patches.reshape((n, -1, patches.shape[1])).mT @ rows).sum(0).t().reshape(shape)
        if len(needs) == 2:
            return None, w_bar
        return None, w_bar, rows.sum((0, 1)) if needs[2] else None


_patches_linear = function(PatchesLinear, "patches_linear")


def patches_linear(x, weight, bias=None, stride=1, padding=0):
    """conv2d of constant images: x a torch.Tensor (n, c, h, w), weight (out, c, k, k) -> (n, out, h′, w′).

    Raises: TypeError for a LiteTensor x, whose gradient this does not compute.
    """
    if not _convolves(x, weight, bias, padding):
        return torch.nn.functional.conv2d(x, weight, bias, stride, padding)  # which says what is wrong
    if not isinstance(x, torch.Tensor):
        raise TypeError(
            f"patches_linear: x must be a torch.Tensor, which is a constant, got {type(x).__name__}; use conv2d"
        )
    if autocast_enabled():
        return F.conv2d(x, weight, bias, stride, padding)
    n, channels, height, width = x.shape
    k, k2 = weight.shape[2:]
    padded = F.pad(x, (padding,) * 4) if padding else x
    h, w = (height + 2 * padding - k) // stride + 1, (width + 2 * padding - k2) // stride + 1
    s = padded.stride()
    windows = padded.as_strided(
        (n, h, w, channels, k, k2), (s[0], s[2] * stride, s[3] * stride, s[1], s[2], s[3])
    )
    return _patches_linear(windows.reshape(n * h * w, channels * k * k2), weight, bias, (n, h, w))


def _convolves(x, weight, bias, padding):
    """Whether these sizes make a convolution: a product of matrices would stretch a bias of a single number."""
    return (
        x.ndim == 4
        and weight.ndim == 4
        and weight.shape[1] == x.shape[1]
        and all(k <= size + 2 * padding for k, size in zip(weight.shape[2:], x.shape[2:], strict=True))
        and (bias is None or tuple(bias.shape) == (weight.shape[0],))
    )


def first_block_of_images(x, weight, bias, gamma, beta, stride, window, eps=1e-5):
    """max_pool2d(batch_norm_relu(conv2d(x, weight, bias, stride, 1), gamma, beta), window) of constant images, one op.

    x a torch.Tensor (n, planes, h, w); weight (out, planes, 3, 3); gamma may be None. None where Neo's kernels do not
    take these images, and the caller composes the block of its parts.
    """
    if not isinstance(x, torch.Tensor) or weight is None or bias is None or beta is None:
        return None
    if not first_kernels.ready(x, [raw(value) for value in (weight, bias, gamma, beta)], stride, window):
        return None
    return first_block(weight, bias, gamma, beta, eps, first_kernels.Images(x, stride, window))


def conv_block(x, weight, bias, gamma, beta, stride, window, eps=1e-5):
    """max_pool2d(batch_norm_relu(conv2d(x, weight, bias, stride, 1), gamma, beta), window) as one op.

    x (n, inputs, h, w), a torch.Tensor of constant images or a LiteTensor; weight (out, inputs, 3, 3); bias and gamma
    may be None. None where Neo's kernels do not take these tensors, and the caller composes the block of its parts.
    """
    if weight is None or beta is None:
        return None
    block = first_block_of_images(x, weight, bias, gamma, beta, stride, window, eps)
    if block is not None:
        return block
    image, *params = (raw(value) for value in (x, weight, bias, gamma, beta))
    if not block_kernels.ready(image, params, stride, window):
        return None
    return conv_norm_relu_pool(x, weight, bias, gamma, beta, eps, stride, window)[0]
