"""Pooling over windows of space."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neo.autograd._batched import is_batched
from neo.autograd.policy import Policy, function
from neo.functions.convolution import per_dim
from neo.functions.registry import implements, raw

# --- maxima --------------------------------------------------------------------------------------------------

_max_pool2d = torch.ops.aten.max_pool2d_with_indices.default
_max_pool2d_backward = torch.ops.aten.max_pool2d_with_indices_backward.default


class MaxPool2d(Policy):
    """y = the largest x of each window;  x̄ = ȳ at its place, added where windows share it. Ties: the first."""

    verified = True

    def forward(self, x, window):
        y, places = _max_pool2d(x, *window)
        self.ctx.save(places, (tuple(x.shape), x.stride()), window)
        return y

    def backward(self, y_bar):
        places, layout, window = self.ctx.release
        return to_places(y_bar, places, layout, window)

    def jvp(self, x_dot):
        return from_places(x_dot, *self.ctx.release)


class ToPlaces(Policy):
    """x̄ = zeros with ȳ added at the places of the maxima;  its adjoint reads those places."""

    verified = True

    def forward(self, y_bar, places, layout, window):
        self.ctx.save(places, layout, window)
        x = torch.empty_strided(*layout, dtype=y_bar.dtype, device=y_bar.device)  # read for its layout alone
        return _max_pool2d_backward(y_bar, x, *window, places)

    def backward(self, x_bar):
        places, layout, window = self.ctx.release
        return from_places(x_bar, places, layout, window), None

    def jvp(self, y_bar_dot, _):
        return to_places(y_bar_dot, *self.ctx.release)


class FromPlaces(Policy):
    """y = x at the places of the maxima;  x̄ = zeros with ȳ added there."""

    verified = True

    def forward(self, x, places, layout, window):
        self.ctx.save(places, layout, window)
        n, c, h, w = places.shape
        if not is_batched(x) and x.is_contiguous(memory_format=torch.channels_last):
            # read in the order of memory, and write in it
            rows = x.permute(0, 2, 3, 1).reshape(n, -1, c)
            y = rows.gather(1, places.permute(0, 2, 3, 1).reshape(n, -1, c))
            return y.view(n, h, w, c).permute(0, 3, 1, 2)
        return x.flatten(2).gather(2, places.flatten(2)).view(n, c, h, w)

    def backward(self, y_bar):
        places, layout, window = self.ctx.release
        return to_places(y_bar, places, layout, window), None

    def jvp(self, x_dot, _):
        return from_places(x_dot, *self.ctx.release)


max_pool, to_places, from_places = (
    function(MaxPool2d, "max_pool2d"),
    function(ToPlaces, "max_pool2d_gradient"),
    function(FromPlaces, "max_pool2d_places"),
)


def _max_pool(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    """x is (n, c, h, w)."""
    kernel = per_dim(kernel_size, 2)
    stride = kernel if stride is None or stride == [] or stride == () else per_dim(stride, 2)
    window = (kernel, stride, per_dim(padding, 2), per_dim(dilation, 2), bool(ceil_mode))
    y = max_pool(x, window)
    return (y, _lite_like(x, _max_pool2d(raw(x), *window)[1])) if return_indices else y


def _lite_like(x, indices):
    return indices if isinstance(x, torch.Tensor) else type(x)(indices)


@implements(F.max_pool2d, torch.max_pool2d)
def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The largest of each window of x (n, c, h, w) or (c, h, w); with return_indices also its place in h*w."""
    if x.ndim == 4:
        return _max_pool(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    out = _max_pool(x.unsqueeze(0), kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return tuple(part.squeeze(0) for part in out) if return_indices else out.squeeze(0)


@implements(F.max_pool2d_with_indices)
def max_pool2d_with_indices(
    x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=True
):
    """max_pool2d, and where in h*w each maximum stood."""
    return max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, True)


@implements(F.max_pool1d, torch.max_pool1d)
def max_pool1d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The largest of each window of x (n, c, l) or (c, l)."""
    kernel, padding, dilation = (per_dim(v, 1)[0] for v in (kernel_size, padding, dilation))
    step = kernel if stride is None or stride == [] or stride == () else per_dim(stride, 1)[0]
    out = max_pool2d(
        x.unsqueeze(-2), (1, kernel), (1, step), (0, padding), (1, dilation), ceil_mode, return_indices
    )
    return tuple(part.squeeze(-2) for part in out) if return_indices else out.squeeze(-2)


@implements(F.max_pool1d_with_indices, torch.max_pool1d_with_indices)
def max_pool1d_with_indices(
    x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=True
):
    """max_pool1d, and where each maximum stood."""
    return max_pool1d(x, kernel_size, stride, padding, dilation, ceil_mode, True)


# --- means ---------------------------------------------------------------------------------------------------

_avg_pool2d_backward = torch.ops.aten.avg_pool2d_backward.default
_adaptive_backward = torch.ops.aten._adaptive_avg_pool2d_backward.default


class AvgPool2d(Policy):
    """y = the mean x of each window, linear in x;  x̄ = ȳ spread over its windows."""

    verified = True

    def forward(self, x, window):
        self.ctx.save((tuple(x.shape), x.stride()), window)
        return torch._C._nn.avg_pool2d(x, *window)

    def backward(self, y_bar):
        return over_windows(y_bar, *self.ctx.release)

    def jvp(self, x_dot):
        _, window = self.ctx.release
        return window_means(x_dot, window)


class OverWindows(Policy):
    """x = y spread over its windows;  ȳ = the mean x̄ of each window."""

    verified = True

    def forward(self, y, layout, window):
        self.ctx.save(layout, window)
        like = torch.empty_strided(*layout, dtype=y.dtype, device=y.device)  # read for its layout alone
        return _avg_pool2d_backward(y, like, *window)

    def backward(self, x_bar):
        _, window = self.ctx.release
        return window_means(x_bar, window)

    def jvp(self, y_dot):
        return over_windows(y_dot, *self.ctx.release)


class AdaptiveAvgPool2d(Policy):
    """y = the mean x of each of h × w cells of the image, linear in x;  x̄ = ȳ spread over its cell."""

    verified = True

    def forward(self, x, size):
        self.ctx.save((tuple(x.shape), x.stride()), size)
        return torch._C._nn.adaptive_avg_pool2d(x, size)

    def backward(self, y_bar):
        return over_cells(y_bar, *self.ctx.release)

    def jvp(self, x_dot):
        _, size = self.ctx.release
        return cell_means(x_dot, size)


class OverCells(Policy):
    """x = y spread over its cells;  ȳ = the mean x̄ of each cell."""

    verified = True

    def forward(self, y, layout, size):
        self.ctx.save(layout, size)
        return _adaptive_backward(y, torch.empty_strided(*layout, dtype=y.dtype, device=y.device))

    def backward(self, x_bar):
        _, size = self.ctx.release
        return cell_means(x_bar, size)

    def jvp(self, y_dot):
        return over_cells(y_dot, *self.ctx.release)


window_means, over_windows = function(AvgPool2d, "avg_pool2d"), function(OverWindows, "avg_pool2d_gradient")
cell_means = function(AdaptiveAvgPool2d, "adaptive_avg_pool2d")
over_cells = function(OverCells, "adaptive_avg_pool2d_gradient")


@implements(F.avg_pool2d)
def avg_pool2d(
    x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """The mean of each window of x (n, c, h, w) or (c, h, w)."""
    kernel = per_dim(kernel_size, 2)
    stride = kernel if stride is None or stride == [] or stride == () else per_dim(stride, 2)
    return window_means(
        x, (kernel, stride, per_dim(padding, 2), bool(ceil_mode), bool(count_include_pad), divisor_override)
    )


@implements(F.avg_pool1d)
def avg_pool1d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """The mean of each window of x (n, c, l) or (c, l)."""
    kernel, padding = per_dim(kernel_size, 1)[0], per_dim(padding, 1)[0]
    step = kernel if stride is None or stride == [] or stride == () else per_dim(stride, 1)[0]
    y = avg_pool2d(x.unsqueeze(-2), (1, kernel), (1, step), (0, padding), ceil_mode, count_include_pad)
    return y.squeeze(-2)


@implements(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(x, output_size):
    """The mean of each of output_size cells of x (n, c, h, w) or (c, h, w); None keeps a size."""
    sizes = (output_size, output_size) if output_size is None or isinstance(output_size, int) else output_size
    size = tuple(n if wanted is None else wanted for wanted, n in zip(sizes, x.shape[-2:], strict=True))
    return x.mean((-2, -1), True) if size == (1, 1) else cell_means(x, size)


@implements(F.adaptive_avg_pool1d)
def adaptive_avg_pool1d(x, output_size):
    """The mean of each of output_size cells of x (n, c, l) or (c, l)."""
    return adaptive_avg_pool2d(x.unsqueeze(-2), (1, per_dim(output_size, 1)[0])).squeeze(-2)
