"""Pooling over windows of space."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neo.autograd._function import function
from neo.autograd.policy import Policy
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


class FromPlaces(Policy):
    """y = x at the places of the maxima;  x̄ = zeros with ȳ added there."""

    verified = True

    def forward(self, x, places, layout, window):
        self.ctx.save(places, layout, window)
        n, c, h, w = places.shape
        if x.is_contiguous(memory_format=torch.channels_last):  # read in the order of memory, and write in it
            rows = x.permute(0, 2, 3, 1).reshape(n, -1, c)
            y = rows.gather(1, places.permute(0, 2, 3, 1).reshape(n, -1, c))
            return y.view(n, h, w, c).permute(0, 3, 1, 2)
        return x.flatten(2).gather(2, places.flatten(2)).view(n, c, h, w)

    def backward(self, y_bar):
        places, layout, window = self.ctx.release
        return to_places(y_bar, places, layout, window), None


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
def max_pool2d_with_indices(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False,
                            return_indices=True):
    """max_pool2d, and where in h*w each maximum stood."""
    return max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, True)
