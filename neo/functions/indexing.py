"""Reading entries by place, and its adjoint, adding entries into zeros at those places."""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd.policy import Policy, function
from neo.functions._arguments import plain_index
from neo.functions.registry import copies, implements, raw


class GetItem(Policy):
    """y = x[index];  x̄ = zeros with ȳ added at index, as often as an entry was read."""

    verified = True

    def forward(self, x, *index):
        self.ctx.save(tuple(x.shape), *index)
        return x[index]

    def backward(self, y_bar):
        shape, *index = self.ctx.release
        return (added_at(y_bar, shape, *index), *[None] * (len(self.ctx.needs_grad) - 1))

    def jvp(self, x_dot, *_):
        _, *index = self.ctx.release
        return read_at(x_dot, *index)


class AddAt(Policy):
    """x = zeros of a shape with y added at index;  ȳ = x̄[index]."""

    verified = True

    def forward(self, y, shape, *index):
        self.ctx.save(shape, *index)
        x = y.new_zeros(shape)
        if all(entry is None or entry is Ellipsis or isinstance(entry, int | slice) for entry in index):
            x[index] = y
        elif len(index) == 1 and isinstance(index[0], torch.Tensor) and shape:
            x.index_put_(index, y, accumulate=True)
        else:  # anything that torch can read: read the places instead, and add there
            places = torch.arange(x.numel(), device=y.device).view(shape)[index]
            x.view(-1).index_add_(0, places.reshape(-1), y.reshape(-1))
        return x

    def backward(self, x_bar):
        _, *index = self.ctx.release
        return (read_at(x_bar, *index), *[None] * (len(self.ctx.needs_grad) - 1))

    def jvp(self, y_dot, *_):
        return added_at(y_dot, *self.ctx.release)


read_at, added_at = function(GetItem, "getitem"), function(AddAt, "add_at")


@implements(torch.Tensor.__getitem__, name="getitem")
def getitem(x, index):
    """x[index]: numbers, slices, None, ..., masks, and tensors, arrays or lists of places."""
    if type(index) is slice or type(index) is int:  # the commonest, without a look at every entry
        return read_at(x, plain_index(index))
    entries = tuple(map(plain_index, index)) if type(index) is tuple else (plain_index(index),)
    for entry in entries:
        if (
            isinstance(entry, torch.Tensor)
            and not entry.ndim
            and entry.dtype not in (torch.bool, torch.uint8)
        ):
            return _at_numbers(x, entries)
    return read_at(x, *entries)


def _at_numbers(x: Any, entries: tuple[Any, ...]) -> Any:
    """x[entries] with integers in 0-dim tensors among the entries.

    torch reads them, for which a device is waited for, and which vmap refuses. Read as vectors of one place each, they
    stay where they are; beside masks, other tensors of places and `...`, torch's way.
    """
    if any(
        entry is Ellipsis
        or isinstance(entry, bool)
        or (isinstance(entry, torch.Tensor) and (entry.ndim or entry.dtype in (torch.bool, torch.uint8)))
        for entry in entries
    ):
        return read_at(x, *entries)
    whole = tuple(slice(None) if isinstance(entry, torch.Tensor) else entry for entry in entries)
    plain = all(isinstance(entry, slice) and entry == slice(None) for entry in whole)
    found = x if plain else read_at(x, *whole)
    dim = 0
    for entry in entries:
        if isinstance(entry, torch.Tensor):
            before = tuple(found.shape)
            if dim >= len(before):
                return read_at(x, *entries)  # too many: torch says so
            found = read_at(found, *[slice(None)] * dim, entry.reshape(1)).reshape(
                before[:dim] + before[dim + 1 :]
            )
        elif not isinstance(entry, int):  # a slice or None has a dim in the result, a number has none
            dim += 1
    return found


@implements(torch.select, numbers=("index",))
def select(x, dim, index):
    """x[index] of dim."""
    dim = dim + x.ndim if dim < 0 else dim
    return read_at(x, *[slice(None)] * dim, int(index))


# --- masks and tables ----------------------------------------------------------------------------------------


@implements(torch.masked_select)
def masked_select(x, mask):
    """The entries of x where the mask holds, as a vector; both broadcast."""
    x, mask = torch.broadcast_tensors(x, mask)
    return read_at(x, raw(mask))


@implements(torch.take_along_dim)
def take_along_dim(x, indices, dim=None):
    """gather, broadcasting over the other dims; without dim, the flattened x at indices."""
    indices = raw(indices)
    if dim is None:
        return read_at(x.reshape((-1,)), indices.reshape(-1))
    dim = dim % x.ndim
    indices = torch.where(indices < 0, indices + x.shape[dim], indices)
    sizes = torch.broadcast_shapes(*((*t.shape[:dim], 1, *t.shape[dim + 1 :]) for t in (x, indices)))
    wide = torch.Size((*sizes[:dim], x.shape[dim], *sizes[dim + 1 :]))
    if x.shape != wide:
        x = x.expand(wide)
    return torch.gather(x, dim, indices.expand((*sizes[:dim], indices.shape[dim], *sizes[dim + 1 :])))


@implements(torch.take)
@copies
def take(x, index):
    """The entries of the flattened x at index."""
    places = raw(index)
    return read_at(x.reshape((-1,)), places.reshape(-1)).reshape(tuple(places.shape))


class Rows(Policy):
    """y = W[x];  W̄ = Σ ȳ / n at the rows of x, n how often x names a row, or 1."""

    verified = True

    def forward(self, weight, places, often):
        self.ctx.save(weight.shape[0], places, often)
        return torch.embedding(weight, places)  # which refuses what is no row

    def backward(self, y_bar):
        count, places, often = self.ctx.release
        return (_rows_added(y_bar, count, places, often), *[None] * (len(self.ctx.needs_grad) - 1))

    def jvp(self, weight_dot, *_):
        _, places, often = self.ctx.release
        return _rows(weight_dot, places, often)


class RowsAdded(Policy):
    """W = Σ y / n at the rows of x;  ȳ = W̄[x], without n, as torch has it."""

    verified = True

    def forward(self, y, count, places, often):
        self.ctx.save(count, places, often)
        y = y if often is None else y / often
        return torch.ops.aten.embedding_dense_backward.default(y, places, count, -1, False)

    def backward(self, weight_bar):
        _, places, _ = self.ctx.release
        return (_rows(weight_bar, raw(places), None), *[None] * (len(self.ctx.needs_grad) - 1))

    def jvp(self, y_dot, *_):
        return _rows_added(y_dot, *self.ctx.release)


_rows, _rows_added = function(Rows, "embedding"), function(RowsAdded, "embedding_dense_backward")


@implements(torch.nn.functional.embedding, only=True, name="embedding")
def embedding(
    x, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False
):
    """The rows of weight that x names; the row padding_idx gets no gradient.

    max_norm: rows longer than that are shortened to it, as torch does to the weight itself, in place and unseen by
    gradients; here the weight stays as it is. scale_grad_by_freq: a row's gradient is divided by how often x names it,
    and the derivative of that gradient is not, as in torch. sparse: gradients are dense all the same.
    Raises IndexError for what is no row.
    """
    if weight.ndim != 2:
        raise RuntimeError(f"embedding: 'weight' must be 2-D, got {weight.ndim}-D")
    places, often = raw(x), None
    if scale_grad_by_freq:
        flat = places.reshape(-1)
        counts = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        counts = counts.index_add(0, flat, torch.ones_like(flat, dtype=weight.dtype))
        often = counts.gather(0, flat).reshape(places.shape).unsqueeze(-1)
    rows = _rows(weight, places, often)
    if max_norm is not None:
        values = rows.detach()
        length = torch.linalg.vector_norm(values, norm_type, -1, keepdim=True)
        shorter = torch.where(length > max_norm, values * (max_norm / (length + 1e-7)), values)
        rows = rows + (shorter - values)
    if padding_idx is None:
        return rows
    padding = (places == padding_idx % weight.shape[0]).unsqueeze(-1)
    return torch.where(padding, rows.detach(), rows)
