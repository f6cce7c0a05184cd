"""Several ops as one Policy, where that saves passes over memory. Each names its composition, and is held to it.

A Policy's rule is free to be any formula that is right; these are chosen so that large tensors are read and written as
few times as the kernels allow, forward and backward. Models choose them (neo.nn); nothing else changes. Under
torch.autocast, which gives each op a dtype of its own, each is its plain composition. Batch norm's are in
norm_relu_pool.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neo import kernels
from neo.autograd._queries import autocast_enabled
from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions.blocks import conv_norm_relu_pool
from neo.functions.convolution import at_every_pixel
from neo.functions.first_block import first_block
from neo.functions.linalg import matmul
from neo.functions.registry import raw
from neo.kernels import block as block_kernels
from neo.kernels import first as first_kernels
from neo.kernels import pixel_means as pixel_kernels
from neo.kernels.convolution import enough_pixels

__all__ = [
    "block_of_any_layout",
    "conv_block",
    "first_block_of_images",
    "patches_linear",
    "spatial_mean",
]


class PixelMeans(Policy):
    """y = the mean of x over the pixels of each image;  x̄ = SpreadMeans(ȳ), its adjoint."""

    verified = True

    @staticmethod
    def composition(x):
        return x.mean((2, 3))

    def forward(self, x):
        self.ctx.save(x.shape[2:])
        return pixel_kernels.pixel_means(x)

    def backward(self, y_bar):
        (size,) = self.ctx.release
        return spread_means(y_bar, *size)

    def jvp(self, x_dot):
        return pixel_means(x_dot)


class SpreadMeans(Policy):
    """x = y / (height · width) at every pixel of an image;  ȳ = PixelMeans(x̄), its adjoint."""

    verified = True

    @staticmethod
    def composition(means, height, width):
        return (means / (height * width)).reshape((*means.shape, 1, 1)).expand((*means.shape, height, width))

    def forward(self, means, height, width):
        self.ctx.save(height, width)
        return pixel_kernels.spread_means(means, height, width)

    def backward(self, x_bar):
        return pixel_means(x_bar.contiguous(memory_format=torch.channels_last))

    def jvp(self, means_dot):
        return spread_means(means_dot, *self.ctx.release)


pixel_means, spread_means = function(PixelMeans, "mean"), function(SpreadMeans)


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

    @staticmethod
    def composition(patches, weight, bias, size):
        y = patches @ weight.reshape((weight.shape[0], -1)).T
        y = y if bias is None else y + bias
        return y.reshape((*size, -1)).permute((0, 3, 1, 2))

    def forward(self, patches, weight, bias, size):
        self.ctx.save(patches, tuple(weight.shape), size)
        flat = weight.reshape(weight.shape[0], -1).t()
        y = torch.mm(patches, flat) if bias is None else torch.addmm(bias, patches, flat)
        n, height, width = size
        return y.view(n, height, width, -1).permute(0, 3, 1, 2)  # rows are pixels: channels-last by itself

    def backward(self, y_bar):
        patches, shape, _ = self.ctx.release
        needs = self.ctx.needs_grad
        n = y_bar.shape[0]
        rows = y_bar.permute(0, 2, 3, 1).reshape((n, -1, shape[0]))
        w_bar = None
        if needs[1]:
            # Image by image, then over images: one sum over every pixel would lose three digits. Patches first: the
            # product with few rows is four times as fast as its transpose.
            # by one kernel whether a session records it or not: `@` of plain tensors would be torch's
            w_bar = matmul(patches.reshape((n, -1, patches.shape[1])).mT, rows).sum(0).t().reshape(shape)
        if len(needs) == 2:
            return None, w_bar
        return None, w_bar, rows.sum((0, 1)) if needs[2] else None

    def jvp(self, _, w_dot, b_dot=None):
        patches, shape, size = self.ctx.release
        if w_dot is None:
            return at_every_pixel(b_dot, (size[0], shape[0], *size[1:]))
        return _patches_linear(patches, w_dot, b_dot, size)


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


def first_block_of_images(x, weight, bias, gamma, beta, stride, window, eps=1e-5, negative_slope=0.0):
    """max_pool2d(batch_norm_relu(conv2d(x, weight, bias, stride, 1), gamma, beta), window) of constant images, one op.

    x a torch.Tensor (n, planes, h, w); weight (out, planes, 3, 3); gamma may be None. None where Neo's kernels do not
    take these images, and the caller composes the block of its parts.
    """
    if not isinstance(x, torch.Tensor) or weight is None or bias is None or beta is None:
        return None
    if not first_kernels.ready(x, [raw(value) for value in (weight, bias, gamma, beta)], stride, window):
        return None
    return first_block(
        weight, bias, gamma, beta, eps, first_kernels.Images(x, stride, window, float(negative_slope))
    )


def conv_block(x, weight, bias, gamma, beta, stride, window, eps=1e-5, negative_slope=0.0):
    """max_pool2d(batch_norm_relu(conv2d(x, weight, bias, stride, 1), gamma, beta), window) as one op.

    x (n, inputs, h, w), a torch.Tensor of constant images or a LiteTensor; weight (out, inputs, 3, 3); bias and gamma
    may be None; negative_slope from 0, a ReLU, to 1, no rectifier at all. None where Neo's kernels do not take these
    tensors, and the caller composes the block of its parts.
    """
    if weight is None or beta is None:
        return None
    block = first_block_of_images(x, weight, bias, gamma, beta, stride, window, eps, negative_slope)
    if block is not None:
        return block
    image, *params = (raw(value) for value in (x, weight, bias, gamma, beta))
    if not block_kernels.ready(image, params, stride, window):
        return None
    return conv_norm_relu_pool(x, weight, bias, gamma, beta, eps, stride, window, float(negative_slope))[0]


def block_of_any_layout(x, weight, bias, gamma, beta, stride, window, eps=1e-5, negative_slope=0.0):
    """conv_block of images that may lie in memory otherwise than channels-last, as its output does.

    None, too, where torch's kernels are faster: for few pixels beside a large weight.
    """
    image = raw(x)
    if not kernels.available() or image.device.type != "cpu" or weight.ndim != 4:
        return None
    if not enough_pixels(image.shape, weight.shape):
        return None
    if isinstance(x, LiteTensor):
        x = x.contiguous(memory_format=torch.channels_last)
    elif bias is None:  # the first block takes constant images and a bias, which the mean takes away
        bias = torch.zeros(weight.shape[0], dtype=image.dtype)
    return conv_block(x, weight, bias, gamma, beta, stride, window, eps, negative_slope)
