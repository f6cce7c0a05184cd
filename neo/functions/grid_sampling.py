"""Reading an image between its pixels, at points that are differentiated too."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F

from neo.functions.registry import implements, raw

MODES, PADDINGS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


@implements(F.grid_sample)
def grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=None):
    """x (n, c, *space) read at the points of grid (n, *out, dims), coordinates in [−1, 1], last dim of x first.

    mode: "bilinear" (trilinear in space), "nearest" (gradient 0 by the grid), "bicubic" (images alone). padding_mode:
    beyond the border "zeros", the "border" itself, or its "reflection". Jaderberg et al. 2015, arXiv:1506.02025.
    """
    if mode not in MODES:
        raise ValueError(f"grid_sample: expected mode to be one of {MODES}, but got: {mode!r}")
    if padding_mode not in PADDINGS:
        raise ValueError(
            f"grid_sample: expected padding_mode to be one of {PADDINGS}, but got: {padding_mode!r}"
        )
    dims = x.ndim - 2
    if dims not in (2, 3) or grid.ndim != x.ndim or grid.shape[-1] != dims or grid.shape[0] != x.shape[0]:
        raise RuntimeError(
            f"grid_sample: expected an input (n, c, *space) and a grid (n, *out, {dims}), got {tuple(x.shape)} and "
            f"{tuple(grid.shape)}"
        )
    if mode == "bicubic" and dims != 2:
        raise RuntimeError("grid_sample: bicubic interpolation only supports 4D input")
    corners = bool(align_corners)
    sizes = tuple(x.shape)[2:]
    points = []  # one tensor (n, *out) a dim of x, in pixels
    for d, size in enumerate(sizes):
        unit = grid[..., dims - 1 - d]
        p = (unit + 1) * ((size - 1) / 2) if corners else ((unit + 1) * size - 1) / 2
        # bicubic brings single pixels into the image, the others points
        points.append(p if mode == "bicubic" else _bounded(p, size, padding_mode, corners))
    if mode == "nearest":
        return _pixels(x, [torch.round(raw(p)) for p in points])
    taps, shifts = (_cubic, range(-1, 3)) if mode == "bicubic" else (_linear, range(2))
    lows = [torch.floor(raw(p)) for p in points]
    weights = [taps(p - low) for p, low in zip(points, lows, strict=True)]
    total = None
    for corner in itertools.product(range(len(shifts)), repeat=dims):
        places = [low + shifts[i] for low, i in zip(lows, corner, strict=True)]
        if mode == "bicubic":
            places = [_bounded(p, n, padding_mode, corners) for p, n in zip(places, sizes, strict=True)]
        weight = weights[0][corner[0]]
        for d in range(1, dims):
            weight = weight * weights[d][corner[d]]
        part = _pixels(x, places) * weight.unsqueeze(1)
        total = part if total is None else total + part
    return total


def _linear(t: Any) -> list[Any]:
    return [1 - t, t]


def _cubic(t: Any) -> list[Any]:
    """The four weights of cubic convolution, a = −3/4, for a fraction t. Keys 1981, equation 15."""
    a = -0.75

    def near(s: Any) -> Any:  # |s| ≤ 1
        return ((a + 2) * s - (a + 3)) * s * s + 1

    def far(s: Any) -> Any:  # 1 < |s| < 2
        return ((a * s - 5 * a) * s + 8 * a) * s - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _bounded(p: Any, size: int, padding: str, corners: bool) -> Any:
    """Coordinates in pixels, brought into the image where the padding asks for it; flat where they are cut off."""
    if padding == "zeros":
        return p
    if padding == "reflection":
        low, span = (0.0, float(size - 1)) if corners else (-0.5, float(size))
        if span == 0:
            p = p * 0
        else:
            away = torch.abs(p - low)
            rest = torch.fmod(away, span)
            odd = torch.floor(raw(away) / span) % 2 == 1
            p = torch.where(odd, span - rest, rest) + low
    inside = (raw(p) > 0) & (raw(p) < size - 1)  # torch has no slope at the very ends
    return torch.where(inside, p, raw(p).clamp(0, size - 1))


def _pixels(x: Any, places: list[torch.Tensor]) -> Any:
    """x at whole-numbered places (n, *out), one tensor a dim; 0 beyond the image → (n, c, *out)."""
    n, c, *sizes = x.shape
    shape = tuple(places[0].shape)
    within = torch.ones(shape, dtype=torch.bool, device=x.device)
    flat = torch.zeros(shape, dtype=torch.long, device=x.device)
    for p, size in zip(places, sizes, strict=True):
        within = within & (p >= 0) & (p <= size - 1)
        flat = flat * size + p.clamp(0, max(size - 1, 0)).nan_to_num().long()
    index = flat.reshape(n, 1, -1).expand(n, c, -1)
    values = torch.gather(x.flatten(2), 2, index).reshape((n, c, *shape[1:]))
    return torch.where(within.unsqueeze(1), values, 0.0)


MODE_NUMBERS = ("interpolation_mode", "padding_mode", "align_corners")


@implements(
    torch.grid_sampler,
    torch.grid_sampler_2d,
    torch.grid_sampler_3d,
    only=True,
    name="grid_sampler",
    numbers=MODE_NUMBERS,
)
def grid_sampler(x, grid, interpolation_mode, padding_mode, align_corners):
    """grid_sample as aten spells it: modes by number."""
    return grid_sample(x, grid, MODES[interpolation_mode], PADDINGS[padding_mode], align_corners)


@implements(F.affine_grid)
def affine_grid(theta, size, align_corners=None):
    """Where grid_sample reads to transform by theta (n, dims, dims + 1): (n, *space, dims), size (n, c, *space)."""
    n, _, *space = size
    dims = len(space)
    if tuple(theta.shape) != (n, dims, dims + 1):
        raise ValueError(
            f"affine_grid: expected matrices of shape ({n}, {dims}, {dims + 1}) for size {tuple(size)}, got "
            f"{tuple(theta.shape)}"
        )
    axes = []
    for length in reversed(space):
        line = torch.linspace(-1, 1, length, dtype=theta.dtype, device=theta.device)
        line = line if length > 1 else line * 0
        axes.append(line if align_corners else line * ((length - 1) / length))
    mesh = torch.meshgrid(*reversed(axes), indexing="ij")
    base = torch.stack([*reversed(mesh), torch.ones_like(mesh[0])], -1).reshape(-1, dims + 1)
    return torch.matmul(base, theta.transpose(1, 2)).reshape((n, *space, dims))
