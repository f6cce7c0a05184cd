"""Reading entries by place, and its adjoint, adding entries into zeros at those places."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from neo.autograd._function import function
from neo.autograd.policy import Policy
from neo.functions.registry import implements, raw
from neo.tensor import LiteTensor


class GetItem(Policy):
    """y = x[index];  x̄ = zeros with ȳ added at index, as often as an entry was read."""

    verified = True

    def forward(self, x, *index):
        self.ctx.save(tuple(x.shape), *index)
        return x[index]

    def backward(self, y_bar):
        shape, *index = self.ctx.release
        return (added_at(y_bar, shape, *index), *[None] * (len(self.ctx.needs_grad) - 1))


class AddAt(Policy):
    """x = zeros of a shape with y added at index;  ȳ = x̄[index]."""

    verified = True

    def forward(self, y, shape, *index):
        self.ctx.save(*index)
        x = y.new_zeros(shape)
        if all(entry is None or entry is Ellipsis or isinstance(entry, int | slice) for entry in index):
            x[index] = y
        elif len(index) == 1 and isinstance(index[0], torch.Tensor):
            x.index_put_(index, y, accumulate=True)
        else:  # anything that torch can read: read the places instead, and add there
            places = torch.arange(x.numel(), device=y.device).view(shape)[index]
            x.view(-1).index_add_(0, places.reshape(-1), y.reshape(-1))
        return x

    def backward(self, x_bar):
        return (read_at(x_bar, *self.ctx.release), *[None] * (len(self.ctx.needs_grad) - 1))


read_at, added_at = function(GetItem, "getitem"), function(AddAt, "add_at")


def plain_index(entry: Any) -> Any:
    """One entry of an index: lists and arrays as torch tensors, LiteTensors as what is behind them."""
    if isinstance(entry, LiteTensor):
        return entry.data
    if isinstance(entry, np.ndarray):
        return torch.from_numpy(np.array(entry))
    if isinstance(entry, np.integer):
        return int(entry)
    if isinstance(entry, list | tuple | range):
        entry = torch.tensor(raw(list(entry)))
        return entry.long() if entry.numel() == 0 else entry
    if isinstance(entry, slice):
        return slice(*(None if e is None else int(e) for e in (entry.start, entry.stop, entry.step)))
    return entry


@implements(torch.Tensor.__getitem__, name="getitem")
def getitem(x, index):
    """x[index]: numbers, slices, None, ..., masks, and tensors, arrays or lists of places."""
    if type(index) is tuple:
        return read_at(x, *[plain_index(entry) for entry in index])
    return read_at(x, plain_index(index))


@implements(torch.select)
def select(x, dim, index):
    """x[index] of dim."""
    dim = dim + x.ndim if dim < 0 else dim
    return read_at(x, *[slice(None)] * dim, int(index))


# --- places along one dim ------------------------------------------------------------------------------------


class Gather(Policy):
    """y[.., i, ..] = x[.., index[.., i, ..], ..] along dim;  x̄ = zeros with ȳ added there."""

    verified = True

    def forward(self, x, dim, index, sparse_grad=False):
        self.ctx.save(tuple(x.shape), dim, index)
        return torch.gather(x, dim, index)

    def backward(self, y_bar):
        shape, dim, index = self.ctx.release
        return torch.scatter_add(y_bar.new_zeros(shape), dim, index, y_bar), None


class ScatterAdd(Policy):
    """y = x with src added at index along dim;  x̄ = ȳ, src̄ = ȳ read there."""

    verified = True

    def forward(self, x, dim, index, src):
        self.ctx.save(dim, index, tuple(src.shape))
        return torch.scatter_add(x, dim, index, src)

    def backward(self, y_bar):
        dim, index, shape = self.ctx.release
        need_x, _, need_src = self.ctx.needs_grad
        src_bar = None
        if need_src:
            src_bar = y_bar.gather(dim, index)
            if tuple(src_bar.shape) != shape:  # a source larger than the index is read in part
                src_bar = added_at(src_bar, shape, *(slice(n) for n in src_bar.shape))
        return y_bar if need_x else None, None, src_bar


implements(torch.gather)(Gather)
implements(torch.scatter_add)(ScatterAdd)
