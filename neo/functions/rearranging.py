"""Pieces put elsewhere: slices written into tensors, strided views, rotations, combinations; and copies of views."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from neo.autograd._aliases import make_view
from neo.autograd.tensor import LiteTensor
from neo.functions import joining, layouts, padding, shaping
from neo.functions._arguments import wrap_dim
from neo.functions.indexing import getitem, read_at
from neo.functions.registry import copies, implements, raw
from neo.functions.shaping import _VF
from neo.guards import require

# --- parts written into a tensor -----------------------------------------------------------------------------


def _written(x: Any, src: Any, view: Any) -> Any:
    """x with src in the place of view(x); view takes a part of any tensor in the shape of x."""
    places = view(torch.arange(x.numel(), device=x.device).reshape(tuple(x.shape)))
    if tuple(src.shape) != tuple(places.shape):
        raise RuntimeError(
            f"expected src to have a size equal to the slice of self. src size = {tuple(src.shape)}, "
            f"slice size = {tuple(places.shape)}"
        )
    flat = torch.scatter(x.reshape((-1,)), 0, places.reshape(-1), src.reshape((-1,)).to(x.dtype))
    return flat.reshape(tuple(x.shape))


@implements(torch.select_scatter, numbers=("index",))
def select_scatter(x, src, dim, index):
    """x with src in the place of x.select(dim, index)."""
    return _written(x, src, lambda t: t.select(dim, index))


@implements(torch.slice_scatter)
def slice_scatter(x, src, dim=0, start=None, end=None, step=1):
    """x with src in the place of x[start:end:step] along dim."""
    place = (slice(None),) * wrap_dim(dim, x.ndim) + (slice(start, end, step),)
    return _written(x, src, lambda t: t[place])


@implements(torch.diagonal_scatter)
def diagonal_scatter(x, src, offset=0, dim1=0, dim2=1):
    """x with src in the place of x.diagonal(offset, dim1, dim2)."""
    return _written(x, src, lambda t: t.diagonal(offset, dim1, dim2))


def _strided_places(x: Any, size: Any, stride: Any, offset: int | None) -> torch.Tensor:
    """Which entry of x each entry of x.as_strided(size, stride, offset) is."""
    data = raw(x)
    # on the CPU wherever x is, for it must be looked at, and depends on no number of x
    storage = torch.full((data.untyped_storage().nbytes() // data.element_size(),), -1)
    entries = torch.arange(data.numel()).reshape(data.shape)
    storage.as_strided(data.shape, data.stride(), data.storage_offset()).copy_(entries)
    places = storage.as_strided(size, stride, data.storage_offset() if offset is None else offset)
    require(
        (places >= 0).all() & ((storage >= 0).sum() == data.numel()),
        lambda: NotImplementedError(
            "as_strided: reads memory beyond the entries of x, or an x whose entries share memory, which has no "
            "Policy; index x, or make it contiguous first"
        ),
    )
    return places.clone().to(x.device)


@implements(torch.as_strided)
def as_strided(x, size, stride, storage_offset=None):
    """The entries of x at places counted in its memory; entries named twice add up in the gradient."""
    if layouts.own_layout(x):
        raise layouts.NotAView
    y = read_at(x.reshape((-1,)), _strided_places(x, size, stride, storage_offset))
    if isinstance(y, LiteTensor) and isinstance(x, LiteTensor):
        make_view(
            y, x, x.data.as_strided(size, stride, storage_offset)
        )  # as in torch: for in-place work in torch code
    return y


# --- turned and split ----------------------------------------------------------------------------------------


@implements(torch.fliplr)
def fliplr(x):
    """x reversed along dim 1."""
    if x.ndim < 2:
        raise RuntimeError("fliplr: Input must be >= 2-d.")
    return x.flip(1)


@implements(torch.flipud)
def flipud(x):
    """x reversed along dim 0."""
    if x.ndim < 1:
        raise RuntimeError("flipud: Input must be >= 1-d.")
    return x.flip(0)


@implements(torch.rot90)
def rot90(x, k=1, dims=(0, 1)):
    """x turned by k · 90° in the plane of two dims, from the first towards the second."""
    if len(dims) != 2 or dims[0] % max(x.ndim, 1) == dims[1] % max(x.ndim, 1):
        raise RuntimeError(f"rot90: expected rotation dims to be two different ones, got {tuple(dims)}")
    first, second = dims
    k = k % 4
    if k == 1:
        return x.flip(second).transpose(first, second)
    if k == 2:
        return x.flip(first, second)
    return x.flip(first).transpose(first, second) if k == 3 else x.clone()


@implements(torch.hsplit, numbers=("indices_or_sections",))
def hsplit(x, indices_or_sections):
    """tensor_split along dim 1, of vectors along their only one."""
    return _split_evenly(x, indices_or_sections, 0 if x.ndim < 2 else 1, "hsplit")


@implements(torch.vsplit, numbers=("indices_or_sections",))
def vsplit(x, indices_or_sections):
    """tensor_split along dim 0 of a tensor of two dims or more."""
    if x.ndim < 2:
        raise RuntimeError(
            f"vsplit: torch.vsplit requires a tensor with at least 2 dimension, but got a tensor with {x.ndim} "
            f"dimensions!"
        )
    return _split_evenly(x, indices_or_sections, 0, "vsplit")


@implements(torch.dsplit, numbers=("indices_or_sections",))
def dsplit(x, indices_or_sections):
    """tensor_split along dim 2."""
    return _split_evenly(x, indices_or_sections, 2, "dsplit")


def _split_evenly(x: Any, indices_or_sections: Any, dim: int, name: str) -> Any:
    if x.ndim <= dim:
        raise RuntimeError(
            f"{name}: torch.{name} requires a tensor with at least {dim + 1} dimension, but got a tensor with {x.ndim} "
            f"dimensions!"
        )
    if isinstance(indices_or_sections, int) and (
        indices_or_sections < 1 or x.shape[dim] % indices_or_sections
    ):
        raise RuntimeError(
            f"{name}: torch.{name} attempted to split along dimension {dim}, but the size of the dimension "
            f"{x.shape[dim]} is not divisible by the split_size {indices_or_sections}!"
        )
    return joining.tensor_split(x, indices_or_sections, dim)


# --- joined and combined -------------------------------------------------------------------------------------


def _given(tensors: Any) -> Any:
    """Tensors given one by one, or in one list."""
    return tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else tensors


@implements(torch.dstack)
def dstack(tensors):
    """Tensors behind each other, along dim 2."""
    return torch.cat([torch.atleast_3d(x) for x in tensors], 2)


@implements(torch.block_diag, _VF.block_diag)
def block_diag(*tensors):
    """Matrices along a diagonal, zeros around them; vectors are rows."""
    tensors = _given(tensors)
    blocks = [torch.atleast_2d(x) for x in tensors]
    width = sum(x.shape[1] for x in blocks)
    rows, start = [], 0
    for x in blocks:
        rows.append(padding.pad(x, (start, width - start - x.shape[1])))
        start += x.shape[1]
    return torch.cat(rows, 0)


@implements(torch.meshgrid, _VF.meshgrid)
def meshgrid(*tensors, indexing=None):
    """Each vector spread over a grid that they span; indexing "ij", the default as in torch, or "xy"."""
    tensors = _given(tensors)
    if indexing not in (None, "ij", "xy"):
        raise RuntimeError(f'meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}')
    vectors = [t.reshape((-1,)) for t in tensors]
    shape = tuple(t.shape[0] for t in vectors)
    grids = [
        t.reshape(tuple(-1 if d == i else 1 for d in range(len(shape)))).expand(shape)
        for i, t in enumerate(vectors)
    ]
    return tuple(g.transpose(0, 1) for g in grids) if indexing == "xy" and len(shape) > 1 else tuple(grids)


@implements(torch.cartesian_prod, _VF.cartesian_prod)
def cartesian_prod(*tensors):
    """All ways to take one entry of each vector, as rows."""
    tensors = _given(tensors)
    if len(tensors) == 1:
        return tensors[0]
    return torch.stack([t.reshape((-1,)) for t in torch.meshgrid(*tensors, indexing="ij")], 1)


@implements(torch.combinations)
def combinations(x, r=2, with_replacement=False):
    """All ways to take r entries of a vector, as rows."""
    take = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = list(take(range(x.shape[0]), r))
    if not rows or not r:
        return x[:0].reshape((0, 1)).expand((0, r)) if r else x[:0]
    return read_at(x, torch.tensor(rows, device=x.device))


@implements(torch.diagflat)
def diagflat(x, offset=0):
    """The matrix with the flattened x on a diagonal."""
    return padding.diag(x.reshape((-1,)), offset)


# --- copies of views, which are views of the same numbers under a name of their own --------------------------


def aten_slice(x, dim=0, start=None, end=None, step=1):
    """x[start:end:step] along dim."""
    return getitem(x, (slice(None),) * wrap_dim(dim, x.ndim) + (slice(start, end, step),))


def transposed(x, dim0, dim1):
    return torch.transpose(x, dim0, dim1)


def _same(x):
    return x.clone()


implements(torch.ops.aten.slice.Tensor, torch.ops.aten.slice, only=True)(aten_slice)

for _targets, _function in (
    ((torch.alias_copy,), _same),
    ((torch.as_strided_copy,), as_strided),
    ((torch.expand_copy,), shaping.expand),
    ((torch.diagonal_copy,), padding.diagonal),
    ((torch.narrow_copy, torch.Tensor.narrow_copy), joining.narrow),
    ((torch.permute_copy,), shaping.permute),
    ((torch.squeeze_copy,), shaping.squeeze),
    ((torch.unsqueeze_copy,), shaping.unsqueeze),
    ((torch.transpose_copy,), transposed),
    ((torch.t_copy,), shaping.t),
    ((torch.unbind_copy,), joining.unbind),
    ((torch.split_with_sizes_copy,), joining.split),
    ((torch.unsafe_split, torch.Tensor.unsafe_split), joining.split),
    ((torch.unsafe_split_with_sizes,), joining.split),
    ((torch.unsafe_chunk, torch.Tensor.unsafe_chunk), joining.chunk),
):
    implements(*_targets, only=True)(copies(_function) if "copy" in _targets[0].__name__ else _function)


@implements(torch.view_copy)
@copies
def view_copy(x, size=None, dtype=None):
    """x in another shape."""
    if isinstance(size, torch.dtype) or dtype is not None:
        raise NotImplementedError(
            "view_copy(dtype) reads the bits of one type as another: that has no gradient"
        )
    return shaping.to_shape(x, tuple(size))


@implements(torch.fft.fftshift, only=True, name="fftshift")
def fftshift(x, dim=None):
    """x with the zero frequency, first along each dim, moved to the middle."""
    dims = _shifted_dims(x, dim)
    return torch.roll(x, [x.shape[d] // 2 for d in dims], dims)


@implements(torch.fft.ifftshift, only=True, name="ifftshift")
def ifftshift(x, dim=None):
    """fftshift undone."""
    dims = _shifted_dims(x, dim)
    return torch.roll(x, [-(x.shape[d] // 2) for d in dims], dims)


def _shifted_dims(x: Any, dim: Any) -> list[int]:
    return list(range(x.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
