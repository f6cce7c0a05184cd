"""Views and copies of the same numbers in another shape. Each op is linear: its gradient is its adjoint."""

from __future__ import annotations

import math
from typing import Any

import torch

from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions import layouts
from neo.functions._arguments import spread, wrap_dim
from neo.functions.registry import copies, implements


class Linear(Policy):
    """A linear rearrangement of one tensor: its jvp is the op itself, on the tangent."""

    verified = True


# --- the same numbers in the same order ----------------------------------------------------------------------


class Reshape(Linear):
    """y = x in another shape;  x̄ = ȳ in the shape of x."""

    def forward(self, x, shape):
        self.ctx.save(x.shape, shape)
        return torch.reshape(x, shape)

    def backward(self, y_bar):
        shape, _ = self.ctx.release
        return y_bar.reshape(shape)

    def jvp(self, x_dot):
        _, shape = self.ctx.release
        return x_dot.reshape(shape)


class View(Reshape):
    """y = x.view(shape), which never copies;  x̄ = ȳ in the shape of x."""

    def forward(self, x, shape):
        self.ctx.save(x.shape, shape)
        return x.view(shape)


_reshape, _view = function(Reshape, "reshape"), function(View, "view")


def to_shape(x, shape):
    """x in another shape, a view where that can be."""
    out = _reshape(x, shape)
    if layouts.own_layout(x):
        layouts.note_copy(x, out)
    return out


def to_view(x, shape):
    """x in another shape, never a copy, but where Neo has chosen how x lies: see layouts.py."""
    return to_shape(x, shape) if layouts.own_layout(x) else _view(x, shape)


@implements(torch.reshape)
def reshape(x, *sizes, shape=None):
    """x in another shape, a view where that can be: reshape(x, 2, -1) or reshape(x, (2, -1))."""
    return to_shape(x, spread(sizes, shape))


@implements(torch.Tensor.view)
def view(x, *sizes, size=None):
    """x in another shape, never a copy. Raises RuntimeError where that cannot be."""
    if sizes and isinstance(sizes[0], torch.dtype):
        raise NotImplementedError("view(dtype) reads the bits of one type as another: that has no gradient")
    return to_view(x, spread(sizes, size))


@implements(torch.Tensor.view_as)
def view_as(x, other):
    return to_view(x, tuple(other.shape))


@implements(torch.Tensor.reshape_as)
def reshape_as(x, other):
    return to_shape(x, tuple(other.shape))


@implements(torch.flatten)
def flatten(x, start_dim=0, end_dim=-1):
    """Dims start_dim to end_dim as one."""
    shape = tuple(x.shape)
    start, end = wrap_dim(start_dim, len(shape)), wrap_dim(end_dim, len(shape))
    if start > end:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    return to_shape(x, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


@implements(torch.ravel)
def ravel(x):
    """x as a vector."""
    return to_shape(x if x.is_contiguous() else x.contiguous(), (x.numel(),))


@implements(torch.unflatten)
def unflatten(x, dim, sizes):
    """One dim as several; one of the sizes may be -1."""
    shape, dim = tuple(x.shape), wrap_dim(dim, x.ndim)
    sizes = tuple(sizes)
    if -1 in sizes:
        known = -math.prod(sizes)
        sizes = tuple(shape[dim] // known if size == -1 else size for size in sizes)
    if math.prod(sizes) != shape[dim]:
        raise RuntimeError(
            f"unflatten: sizes {sizes} do not multiply up to {shape[dim]}, the size of dim {dim}"
        )
    return to_shape(x, (*shape[:dim], *sizes, *shape[dim + 1 :]))


@implements(torch.squeeze)
def squeeze(x, *axes, dim=None):
    """Without the dims of size 1, or without those of the given ones that have size 1."""
    dims = range(x.ndim) if not axes and dim is None else [wrap_dim(d, x.ndim) for d in spread(axes, dim)]
    return to_shape(x, tuple(size for i, size in enumerate(x.shape) if size != 1 or i not in dims))


@implements(torch.unsqueeze)
def unsqueeze(x, dim):
    """A dim of size 1 before dim `dim`."""
    dim = wrap_dim(dim, x.ndim + 1)
    shape = tuple(x.shape)
    return to_shape(x, (*shape[:dim], 1, *shape[dim:]))


def _at_least(ndim: int, widen: Any) -> Any:
    def at_least(*tensors):
        if len(tensors) == 1 and isinstance(tensors[0], tuple | list):
            tensors = tuple(tensors[0])
        out = tuple(x if x.ndim >= ndim else to_shape(x, widen(tuple(x.shape))) for x in tensors)
        return out[0] if len(out) == 1 else out

    return at_least


_VF: Any = torch._VF  # the C functions that torch's Python ones call; a list of tensors reaches those
implements(torch.atleast_1d, _VF.atleast_1d)(_at_least(1, lambda shape: (1,)))
implements(torch.atleast_2d, _VF.atleast_2d)(_at_least(2, lambda shape: (1, *shape) if shape else (1, 1)))
implements(torch.atleast_3d, _VF.atleast_3d)(
    _at_least(3, lambda shape: {0: (1, 1, 1), 1: (1, *shape, 1), 2: (*shape, 1)}[len(shape)])
)


# --- another order of dims -----------------------------------------------------------------------------------


class Permute(Linear):
    """y = x with its dims in the order `dims`;  x̄ = ȳ with them put back."""

    def forward(self, x, dims):
        self.ctx.save(tuple(d % x.ndim for d in dims))
        return torch.permute(x, dims)

    def backward(self, y_bar):
        (dims,) = self.ctx.release
        return y_bar.permute(tuple(sorted(range(len(dims)), key=dims.__getitem__)))

    def jvp(self, x_dot):
        return x_dot.permute(*self.ctx.release)


class Transpose(Linear):
    """y = x with two dims swapped;  x̄ = ȳ with them swapped back."""

    def forward(self, x, dim0, dim1):
        self.ctx.save(dim0, dim1)
        return torch.transpose(x, dim0, dim1)

    def backward(self, y_bar):
        return y_bar.transpose(*self.ctx.release)

    def jvp(self, x_dot):
        return x_dot.transpose(*self.ctx.release)


implements(torch.transpose, torch.swapaxes, torch.swapdims)(Transpose)
swap = function(Transpose, "transpose")
to_order = function(Permute, "permute")


@implements(torch.permute)
def permute(x, *axes, dims=None):
    """Dims in another order: permute(x, 1, 0) or permute(x, (1, 0))."""
    return to_order(x, spread(axes, dims))


@implements(torch.t)
def t(x):
    """The transpose of a matrix; a vector or number as it is."""
    if x.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {x.ndim}D")
    return swap(x, 0, 1) if x.ndim == 2 else x


@implements(torch.movedim, torch.moveaxis, numbers=("source",))
def movedim(x, source, destination):
    """Dims `source` moved to places `destination`, the others in their order."""
    ndim = x.ndim
    sources = [wrap_dim(d, ndim) for d in spread((source,))]
    places = [wrap_dim(d, ndim) for d in spread((destination,))]
    if len(sources) != len(places) or len(set(sources)) != len(sources) or len(set(places)) != len(places):
        raise RuntimeError(
            f"movedim: source {source} and destination {destination} must pair off distinct dims"
        )
    rest = iter([d for d in range(ndim) if d not in sources])
    at = dict(zip(places, sources, strict=True))
    return to_order(x, tuple(at[i] if i in at else next(rest) for i in range(ndim)))


def _reversed_dims(x):
    return x.t() if x.ndim == 2 else to_order(x, tuple(reversed(range(x.ndim))))


def t_of_matrix(x):
    if x.ndim not in (0, 2):
        raise RuntimeError(f"tensor.H is only supported on matrices (2-D tensors). Got {x.ndim}-D tensor.")
    return t(x)


for _name, _attribute in {
    "T": property(_reversed_dims, doc="The transpose: dims in reverse order."),
    "mT": property(lambda x: swap(x, -2, -1), doc="The last two dims swapped."),
    "H": property(t_of_matrix, doc="The transpose of a matrix; real numbers are their own conjugates."),
    "mH": property(lambda x: swap(x, -2, -1), doc="The last two dims swapped, as mT: LiteTensors are real."),
}.items():
    setattr(LiteTensor, _name, _attribute)


# --- the same numbers again ----------------------------------------------------------------------------------


class Expand(Linear):
    """y = x repeated without a copy along dims of size 1 and new leading dims;  x̄ = Σ ȳ over them."""

    def forward(self, x, shape):
        self.ctx.save(x.shape, shape)
        return x.expand(shape)

    def backward(self, y_bar):
        shape, _ = self.ctx.release
        return y_bar.sum_to_size(shape)

    def jvp(self, x_dot):
        _, shape = self.ctx.release
        return x_dot.expand(shape)


class SumToSize(Linear):
    """y = Σ x over the dims along which `shape` broadcasts to x;  x̄ = ȳ repeated there."""

    def forward(self, x, shape):
        self.ctx.save(x.shape, shape)
        return x.sum_to_size(shape)

    def backward(self, y_bar):
        shape, _ = self.ctx.release
        return y_bar.expand(shape)

    def jvp(self, x_dot):
        _, shape = self.ctx.release
        return x_dot.sum_to_size(shape)


to_size, summed_to = function(Expand, "expand"), function(SumToSize, "sum_to_size")


@implements(torch.Tensor.expand)
def expand(x, *sizes, size=None):
    """x repeated, without a copy, to a shape it broadcasts to; -1 leaves a size as it is."""
    return to_size(x, spread(sizes, size))


@implements(torch.Tensor.expand_as)
def expand_as(x, other):
    return to_size(x, tuple(other.shape))


@implements(torch.broadcast_to)
def broadcast_to(x, size):
    return to_size(x, tuple(size))


@implements(torch.broadcast_tensors)
def broadcast_tensors(*tensors):
    """Each tensor expanded to the shape they all broadcast to."""
    if len(tensors) == 1 and isinstance(tensors[0], tuple | list):
        tensors = tuple(tensors[0])
    shape = tuple(torch.broadcast_shapes(*(x.shape for x in tensors)))
    return tuple(x if tuple(x.shape) == shape else to_size(x, shape) for x in tensors)


@implements(torch.Tensor.sum_to_size)
def sum_to_size(x, *sizes, size=None):
    """The adjoint of broadcasting: x summed to a shape that broadcasts to its own."""
    return summed_to(x, spread(sizes, size))


@implements(torch.Tensor.repeat)
@copies
def repeat(x, *counts, repeats=None):
    """x laid side by side: repeats[i] times along dim i; more repeats than dims make leading dims."""
    counts = spread(counts, repeats)
    sizes = (1,) * (len(counts) - x.ndim) + tuple(x.shape)
    if len(sizes) != len(counts):
        raise RuntimeError(
            f"repeat: {len(counts)} repeats for a tensor of {x.ndim} dims; give one for each dim"
        )
    apart = tuple(n for size in sizes for n in (1, size))
    wide = tuple(n for count, size in zip(counts, sizes, strict=True) for n in (count, size))
    together = tuple(count * size for count, size in zip(counts, sizes, strict=True))
    return to_shape(to_size(to_shape(x, apart), wide), together)


@implements(torch.tile)
def tile(x, *counts, dims=None):
    """Like repeat, with missing counts taken as 1."""
    counts = spread(counts, dims)
    return repeat(x, (1,) * (x.ndim - len(counts)) + counts)


@implements(torch.repeat_interleave)
@copies
def repeat_interleave(x, repeats, dim=None, *, output_size=None):
    """Each entry along dim repeated, next to itself; repeats is a number or a tensor of counts."""
    if dim is None:
        x, dim = ravel(x), 0
    dim = wrap_dim(dim, x.ndim)
    if isinstance(repeats, int):
        shape = tuple(x.shape)
        wide = to_size(unsqueeze(x, dim + 1), (*shape[: dim + 1], repeats, *shape[dim + 1 :]))
        return flatten(wide, dim, dim + 1)
    counts = repeats.data if isinstance(repeats, LiteTensor) else repeats
    where = torch.arange(x.shape[dim], device=x.device).repeat_interleave(counts, output_size=output_size)
    return torch.index_select(x, dim, where)


# --- reversed and shifted ------------------------------------------------------------------------------------


class Flip(Linear):
    """y = x reversed along dims;  x̄ = ȳ reversed again."""

    def forward(self, x, dims):
        self.ctx.save(dims)
        return torch.flip(x, dims)

    def backward(self, y_bar):
        return y_bar.flip(*self.ctx.release)

    def jvp(self, x_dot):
        return x_dot.flip(*self.ctx.release)


class Roll(Linear):
    """y = x shifted along dims, what falls out at one end entering at the other;  x̄ = ȳ shifted back."""

    def forward(self, x, shifts, dims=()):
        self.ctx.save(shifts, dims)
        return torch.roll(x, shifts, dims)

    def backward(self, y_bar):
        shifts, dims = self.ctx.release
        back = -shifts if isinstance(shifts, int) else tuple(-s for s in shifts)
        return torch.roll(y_bar, back, dims)

    def jvp(self, x_dot):
        return torch.roll(x_dot, *self.ctx.release)


implements(torch.roll)(Roll)
reverse = function(Flip, "flip")


@implements(torch.flip)
def flip(x, *axes, dims=None):
    """x reversed along dims: flip(x, 0, 1) or flip(x, (0, 1))."""
    return reverse(x, spread(axes, dims))
