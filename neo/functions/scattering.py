"""Gather and scatter along a dim, and writing at places: each is the other's adjoint."""

from __future__ import annotations

import torch

from neo.autograd.policy import Policy, function
from neo.functions._arguments import plain_index
from neo.functions.elementwise import is_number
from neo.functions.indexing import added_at, read_at
from neo.functions.registry import implements

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

    def jvp(self, x_dot, _):
        _, dim, index = self.ctx.release
        return torch.gather(x_dot, dim, index)


class ScatterAdd(Policy):
    """y = x with src added at index along dim;  x̄ = ȳ, src̄ = ȳ read there."""

    verified = True

    def forward(self, x, dim, index, src):
        self.ctx.save(dim, index, tuple(src.shape), tuple(x.shape))
        return torch.scatter_add(x, dim, index, src)

    def backward(self, y_bar):
        dim, index, shape, _ = self.ctx.release
        need_x, _, need_src = self.ctx.needs_grad
        src_bar = None
        if need_src:
            src_bar = y_bar.gather(dim, index)
            if tuple(src_bar.shape) != shape:  # a source larger than the index is read in part
                src_bar = added_at(src_bar, shape, *(slice(n) for n in src_bar.shape))
        return y_bar if need_x else None, None, src_bar

    def jvp(self, x_dot, _, src_dot):
        dim, index, _, shape = self.ctx.release
        if src_dot is None:
            return x_dot
        return torch.scatter_add(src_dot.new_zeros(shape) if x_dot is None else x_dot, dim, index, src_dot)


implements(torch.gather)(Gather)
implements(torch.scatter_add)(ScatterAdd)


class Scatter(Policy):
    """y = x with src, or a number, written at index along dim;  x̄ = ȳ with 0 there, src̄ = ȳ read there."""

    verified = True

    def forward(self, x, dim, index, src):
        shape = tuple(src.shape) if isinstance(src, torch.Tensor) else None
        self.ctx.save(dim, index, shape, tuple(x.shape))
        return torch.scatter(x, dim, index, src)

    def backward(self, y_bar):
        dim, index, shape, _ = self.ctx.release
        needs = self.ctx.needs_grad
        x_bar = torch.scatter(y_bar, dim, index, 0.0) if needs[0] else None
        if shape is None:
            return x_bar, None
        src_bar = None
        if needs[2]:
            src_bar = y_bar.gather(dim, index)
            if tuple(src_bar.shape) != shape:  # a source larger than the index is read in part
                src_bar = added_at(src_bar, shape, *(slice(n) for n in src_bar.shape))
        return x_bar, None, src_bar

    def jvp(self, x_dot, _, src_dot=None):
        dim, index, _, shape = self.ctx.release
        if src_dot is None:
            return torch.scatter(x_dot, dim, index, 0.0)
        return torch.scatter(src_dot.new_zeros(shape) if x_dot is None else x_dot, dim, index, src_dot)


_scatter = function(Scatter, "scatter")


@implements(torch.scatter, scalars=("value",))
def scatter(x, dim, index, src=None, *, value=None, reduce=None):
    """x with src (a tensor or number) written at index along dim; what several write to one place is not defined."""
    if reduce is not None:
        raise NotImplementedError(f"scatter: reduce={reduce!r} has no Policy; scatter_add adds")
    if src is None and not is_number(value):
        src = value.to(x.dtype).expand(tuple(index.shape))
    return _scatter(x, dim, index, value if src is None else src)


class IndexSelect(Policy):
    """y = the slices of x at index along dim;  x̄ = zeros with the slices of ȳ added there."""

    verified = True

    def forward(self, x, dim, index):
        self.ctx.save(tuple(x.shape), dim, index)
        return torch.index_select(x, dim, index)

    def backward(self, y_bar):
        shape, dim, index = self.ctx.release
        return index_add(y_bar.new_zeros(shape), dim, index, y_bar), None

    def jvp(self, x_dot, _):
        _, dim, index = self.ctx.release
        return torch.index_select(x_dot, dim, index)


class IndexAdd(Policy):
    """y = x with α times the slices of src added at index along dim;  x̄ = ȳ, src̄ = α times its slices there."""

    verified = True

    def forward(self, x, dim, index, source, alpha):
        self.ctx.save(dim, index, alpha, tuple(x.shape))
        return torch.index_add(x, dim, index, source, alpha=alpha)

    def backward(self, y_bar):
        dim, index, alpha, _ = self.ctx.release
        need_x, _, need_source = self.ctx.needs_grad
        source_bar = None
        if need_source:
            source_bar = torch.index_select(y_bar, dim, index)
            source_bar = source_bar if alpha == 1 else source_bar * alpha
        return y_bar if need_x else None, None, source_bar

    def jvp(self, x_dot, _, source_dot):
        dim, index, alpha, shape = self.ctx.release
        if source_dot is None:
            return x_dot
        return _index_add(
            source_dot.new_zeros(shape) if x_dot is None else x_dot, dim, index, source_dot, alpha
        )


implements(torch.index_select)(IndexSelect)
_index_add = function(IndexAdd, "index_add")


@implements(torch.index_add, scalars=("alpha",))
def index_add(x, dim, index, source, *, alpha=1):
    """x with alpha times the slices of source added at index along dim."""
    if not is_number(alpha):
        source, alpha = source * alpha, 1
    return _index_add(x, dim, index, source, alpha)


class IndexPut(Policy):
    """y = x with values written at indices;  x̄ = ȳ with 0 there, values̄ = ȳ read there.
    accumulate: y = x with values added;  x̄ = ȳ, values̄ = ȳ read there."""

    broadcasts = True  # values broadcast to what is written
    verified = True

    def forward(self, x, values, accumulate, *indices):
        self.ctx.save(accumulate, tuple(values.shape), tuple(x.shape), *indices)
        return torch.index_put(x, indices, values, accumulate)

    def backward(self, y_bar):
        accumulate, shape, _, *indices = self.ctx.release
        need_x, need_values, *rest = self.ctx.needs_grad
        x_bar = values_bar = None
        if need_x:
            zero = torch.zeros((), dtype=y_bar.dtype, device=y_bar.device)
            x_bar = y_bar if accumulate else _index_put(y_bar, zero, False, *indices)
        if need_values:
            values_bar = read_at(y_bar, *indices).sum_to_size(shape)
        return (x_bar, values_bar, *[None] * len(rest))

    def jvp(self, x_dot, values_dot, *_):
        accumulate, _, shape, *indices = self.ctx.release
        if values_dot is None:
            if accumulate:
                return x_dot
            values_dot = x_dot.new_zeros(())
        return _index_put(
            values_dot.new_zeros(shape) if x_dot is None else x_dot, values_dot, accumulate, *indices
        )


_index_put = function(IndexPut, "index_put")


@implements(torch.index_put)
def index_put(x, indices, values, accumulate=False):
    """x with values written, or added, at indices, a tuple of index tensors or masks."""
    return _index_put(x, values, accumulate, *[plain_index(entry) for entry in indices])
