"""Images and signals on another grid of points: interpolation, pixels traded for channels, patches taken and put back.

All of it is linear in x, with coefficients that depend on sizes alone: each gradient is the adjoint kernel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from neo.functions._arguments import wrap_dim
from neo.functions._linear_map import linear_map
from neo.functions.convolution import per_dim
from neo.functions.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d
from neo.functions.registry import copies, implements, raw
from neo.functions.windows import adaptive_avg_pool3d

# --- interpolation -------------------------------------------------------------------------------------------

_aten = torch.ops.aten
# (mode, spatial dims) -> the kernel's adjoint, and whether it takes align_corners
_ADJOINTS: dict[tuple[str, int], tuple[Any, bool]] = {
    ("nearest", 1): (_aten.upsample_nearest1d_backward.default, False),
    ("nearest", 2): (_aten.upsample_nearest2d_backward.default, False),
    ("nearest", 3): (_aten.upsample_nearest3d_backward.default, False),
    ("nearest-exact", 1): (_aten._upsample_nearest_exact1d_backward.default, False),
    ("nearest-exact", 2): (_aten._upsample_nearest_exact2d_backward.default, False),
    ("nearest-exact", 3): (_aten._upsample_nearest_exact3d_backward.default, False),
    ("linear", 1): (_aten.upsample_linear1d_backward.default, True),
    ("bilinear", 2): (_aten.upsample_bilinear2d_backward.default, True),
    ("bicubic", 2): (_aten.upsample_bicubic2d_backward.default, True),
    ("trilinear", 3): (_aten.upsample_trilinear3d_backward.default, True),
}
_SMOOTH_ADJOINTS: dict[tuple[str, int], tuple[Any, bool]] = {  # antialias=True
    ("bilinear", 2): (_aten._upsample_bilinear2d_aa_backward.default, True),
    ("bicubic", 2): (_aten._upsample_bicubic2d_aa_backward.default, True),
}
_AREA = {1: adaptive_avg_pool1d, 2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}


@implements(F.interpolate)
def interpolate(
    x,
    size=None,
    scale_factor=None,
    mode="nearest",
    align_corners=None,
    recompute_scale_factor=None,
    antialias=False,
):
    """x (n, c, *space) resampled to `size`, or by `scale_factor`; linear in x.

    mode: "nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear" or "area".
    Raises: torch's own errors for sizes, modes and numbers of dims that do not fit together.
    """
    count = x.ndim - 2
    if mode == "area" and count in _AREA:
        wanted = _wanted_size(x, size, scale_factor, count)
        return _AREA[count](x, wanted)

    def apply(t: torch.Tensor) -> torch.Tensor:
        return F.interpolate(t, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)

    found = (_SMOOTH_ADJOINTS if antialias else _ADJOINTS).get((mode, count))
    if found is None:
        try:
            apply(raw(x))  # which raises, saying what does not fit
        except NotImplementedError as error:
            raise ValueError(f"interpolate: {error}") from None
        raise NotImplementedError(f"interpolate: mode={mode!r} over {count} dims has no Policy")
    kernel, takes_corners = found
    shape, out = tuple(x.shape), _wanted_size(x, size, scale_factor, count)
    factors: Any = [None] * count
    if scale_factor is not None and not recompute_scale_factor:
        factors = _per_dim(scale_factor, count)
    corners = (bool(align_corners),) if takes_corners else ()
    return linear_map(x, apply, lambda g: kernel(g, out, shape, *corners, *factors))


def _per_dim(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _wanted_size(x: Any, size: Any, scale_factor: Any, count: int) -> list[int]:
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: exactly one of size and scale_factor should be defined")
    if size is not None:
        return [int(n) for n in _per_dim(size, count)]
    return [math.floor(n * f) for n, f in zip(x.shape[2:], _per_dim(scale_factor, count), strict=True)]


@implements(_aten._upsample_bilinear2d_aa.default, _aten._upsample_bilinear2d_aa, only=True)
def upsample_bilinear2d_aa(
    x, output_size, align_corners=False, scales_h=None, scales_w=None, *, scale_factors=None
):
    """interpolate(mode="bilinear", antialias=True) as aten spells it."""
    if scale_factors is not None:
        scales_h, scales_w = scale_factors
    shape = tuple(x.shape)
    out = _wanted_size(x, output_size, scale_factors if output_size is None else None, 2)
    rest = (align_corners, scales_h, scales_w)
    return linear_map(
        x,
        lambda t: _aten._upsample_bilinear2d_aa.default(t, out, *rest),
        lambda g: _aten._upsample_bilinear2d_aa_backward.default(g, out, shape, *rest),
    )


# --- pixels for channels -------------------------------------------------------------------------------------


@implements(F.pixel_shuffle)
@copies
def pixel_shuffle(x, upscale_factor):
    """(.., c r², h, w) → (.., c, h r, w r). Shi et al. 2016, arXiv:1609.05158."""
    r = upscale_factor
    _check_pixels(x, "pixel_shuffle", r, r * r, 1)
    *lead, c, h, w = x.shape
    y = x.reshape((math.prod(lead), c // (r * r), r, r, h, w)).permute((0, 1, 4, 2, 5, 3))
    return y.reshape((*lead, c // (r * r), h * r, w * r))


@implements(F.pixel_unshuffle)
@copies
def pixel_unshuffle(x, downscale_factor):
    """(.., c, h r, w r) → (.., c r², h, w): pixel_shuffle undone."""
    r = downscale_factor
    _check_pixels(x, "pixel_unshuffle", r, 1, r)
    *lead, c, h, w = x.shape
    y = x.reshape((math.prod(lead), c, h // r, r, w // r, r)).permute((0, 1, 3, 5, 2, 4))
    return y.reshape((*lead, c * r * r, h // r, w // r))


def _check_pixels(x: Any, name: str, factor: int, channels: int, space: int) -> None:
    if x.ndim < 3:
        raise RuntimeError(
            f"{name}: expects input to have at least 3 dimensions, got one of {x.ndim} dimension(s)"
        )
    if factor <= 0:
        raise RuntimeError(f"{name}: expects a positive factor, but got {factor}")
    c, h, w = x.shape[-3:]
    if c % channels or h % space or w % space:
        raise RuntimeError(f"{name}: shape {tuple(x.shape)} does not divide by the factor {factor}")


@implements(F.channel_shuffle)
def channel_shuffle(x, groups):
    """Channels (dim 1) of all groups in turn, one of each at a time. Zhang et al. 2017, arXiv:1707.01083."""
    n, c, *space = x.shape
    if groups <= 0 or c % groups:
        raise RuntimeError(f"channel_shuffle: {c} channels do not divide into {groups} groups")
    return x.reshape((n, groups, c // groups, *space)).transpose(1, 2).reshape(tuple(x.shape))


# --- patches -------------------------------------------------------------------------------------------------


@implements(F.unfold, only=True, name="unfold")
def unfold(x, kernel_size, dilation=1, padding=0, stride=1):
    """The patches of x (n, c, h, w) as columns, (n, c kh kw, patches)."""
    window = tuple(per_dim(value, 2) for value in (kernel_size, dilation, padding, stride))
    size = tuple(x.shape)[-2:]
    return linear_map(
        x,
        lambda t: torch._C._nn.im2col(t, *window),
        lambda g: torch._C._nn.col2im(g, size, *window),
    )


@implements(F.fold, only=True, name="fold")
def fold(x, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """Columns (n, c kh kw, patches) added into images (n, c, h, w) at their patches: the adjoint of unfold."""
    window = tuple(per_dim(value, 2) for value in (kernel_size, dilation, padding, stride))
    size = per_dim(output_size, 2)
    return linear_map(
        x,
        lambda t: torch._C._nn.col2im(t, size, *window),
        lambda g: torch._C._nn.im2col(g, *window),
    )


@implements(torch.Tensor.unfold, only=True)
def unfold_dim(x, dimension, size, step):
    """Windows of `size` along a dim, one every `step`; their entries become the last dim."""
    dim, shape = wrap_dim(dimension, x.ndim), tuple(x.shape)
    backward = _aten.unfold_backward.default
    return linear_map(x, lambda t: t.unfold(dim, size, step), lambda g: backward(g, shape, dim, size, step))


implements(torch.unfold_copy, only=True)(copies(unfold_dim))
