"""Every entry of the compiled kernels as a call that is right, and what torch makes of it in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["ENTRIES", "Call", "Case", "moments_of", "spread_of"]

EPS = 1e-5


@dataclass(frozen=True)
class Case:
    """Sizes of a call: images (n, inputs, h, w) to `outputs` channels; both in whole vectors of `lanes` channels."""

    dtype: torch.dtype = torch.float64
    lanes: int = 8
    n: int = 2
    inputs: int = 1  # vectors
    outputs: int = 2  # vectors
    planes: int = 2  # of a first block's images
    h: int = 5
    w: int = 6
    stride: int = 1
    window: int = 2
    slope: float = 0.0
    optional: bool = True  # whether what may be None is given

    @property
    def down(self) -> int:
        return (self.h - 1) // self.stride + 1

    @property
    def across(self) -> int:
        return (self.w - 1) // self.stride + 1


@dataclass
class Call:
    """Arguments by name, in the entry's order, and what its outputs must hold afterwards, in float64."""

    arguments: dict[str, Any]
    expected: dict[str, torch.Tensor] = field(default_factory=dict)


class Draw:
    """Random float64 tensors of a case, whose numbers its dtype can hold."""

    def __init__(self, case: Case):
        self.case, self.generator = case, torch.Generator().manual_seed(case.n + 10 * case.h + 100 * case.w)

    def __call__(self, *shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.case.dtype).double()

    def last(self, value: torch.Tensor | None) -> torch.Tensor | None:
        """As the kernels take an image: a copy, channels-last."""
        return None if value is None else value.detach().to(self.case.dtype).contiguous(memory_format=_LAST)

    def plain(self, value: torch.Tensor | None) -> torch.Tensor | None:
        return None if value is None else value.detach().to(self.case.dtype).contiguous().clone()

    def out(self, like: torch.Tensor, last: bool = True) -> torch.Tensor:
        layout = _LAST if last else torch.contiguous_format
        return torch.full_like(like, torch.nan, dtype=self.case.dtype, memory_format=layout)


_LAST = torch.channels_last


def grad(outputs: Any, inputs: Any, cotangents: Any) -> tuple[torch.Tensor, ...]:
    kept = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if c is not None]
    return torch.autograd.grad(
        [o for o, _ in kept], inputs, [c for _, c in kept], create_graph=True, allow_unused=True,
        materialize_grads=True,
    )  # fmt: skip


def normed(z: torch.Tensor, gamma: torch.Tensor | None, beta: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(z, None, None, gamma, beta, True, 0.0, EPS)


def pooled(v: torch.Tensor, case: Case) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The largest of each window, rectified, and which pixel of its window it was."""
    window = case.window
    if window == 1:
        return F.leaky_relu(v, case.slope), None
    y, at = F.max_pool2d(v, window, return_indices=True)
    rows, columns = at // v.shape[3] % window, at % v.shape[3] % window
    place = (rows * window + columns).to(torch.uint8).contiguous(memory_format=_LAST)
    return F.leaky_relu(y, case.slope), place


def statistics(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return z.mean((0, 2, 3)), torch.rsqrt(z.var((0, 2, 3), correction=0) + EPS)


def conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int) -> torch.Tensor:
    return F.conv2d(x, weight, bias, stride, 1)


# --- convolutions and sums ------------------------------------------------------------------------------------------


def _convolved(case: Case) -> tuple[Draw, torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    draw = Draw(case)
    inputs, outputs = case.inputs * case.lanes, case.outputs * case.lanes
    x = draw(case.n, inputs, case.h, case.w).requires_grad_()
    weight = draw(outputs, inputs, 3, 3).requires_grad_()
    bias = draw(outputs) if case.optional else None
    return draw, x, weight, bias, conv(x, weight, bias, case.stride)


def convolution(case: Case) -> Call:
    draw, x, weight, bias, y = _convolved(case)
    given = {"x": draw.last(x), "weight": draw.last(weight), "bias": draw.plain(bias), "z": draw.out(y)}
    return Call({**given, "stride": case.stride}, {"z": y})


def convolution_input(case: Case) -> Call:
    draw, x, weight, _, y = _convolved(case)
    g = draw(*y.shape)
    (x_bar,) = grad([y], [x], [g])
    given = {"z_bar": draw.last(g), "weight": draw.last(weight), "x_bar": draw.out(x)}
    return Call({**given, "stride": case.stride}, {"x_bar": x_bar})


def convolution_weight(case: Case) -> Call:
    draw, x, weight, _, y = _convolved(case)
    g = draw(*y.shape)
    (w_bar,) = grad([y], [weight], [g])
    given = {"x": draw.last(x), "z_bar": draw.last(g), "w_bar": draw.out(weight)}
    return Call({**given, "stride": case.stride}, {"w_bar": w_bar})


def convolution_bias(case: Case) -> Call:
    draw, x, *_ = _convolved(case)
    sums = x.sum((0, 2, 3))
    return Call({"z_bar": draw.last(x), "b_bar": draw.out(sums, False)}, {"b_bar": sums})


def pixel_means(case: Case) -> Call:
    draw, x, *_ = _convolved(case)
    means = x.mean((2, 3))
    return Call({"z": draw.last(x), "means": draw.out(means, False)}, {"means": means})


def spread_means(case: Case) -> Call:
    draw, x, *_ = _convolved(case)
    means = draw(*x.shape[:2])
    return Call({"means": draw.plain(means), "z": draw.out(x)}, {"z": spread_of(means, x)})


def spread_of(means: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """means (n, channels) over the pixels of x's shape."""
    return (means / x[0, 0].numel())[:, :, None, None].expand(x.shape)


# --- batch norm, rectifier, pooling ---------------------------------------------------------------------------------


def _normed(case: Case) -> tuple[Draw, dict[str, Any]]:
    """A forward pass and the kernels' names for its tensors, in float64."""
    draw = Draw(case)
    channels = case.outputs * case.lanes
    z = draw(case.n, channels, case.h, case.w).requires_grad_()
    gamma = (draw(channels) if case.optional else torch.ones(channels, dtype=torch.float64)).requires_grad_()
    beta = draw(channels).requires_grad_()
    y, place = pooled(normed(z, gamma, beta), case)
    mean, scale = statistics(z)
    return draw, {
        "z": z, "gamma": gamma, "beta": beta, "y": y, "place": place, "mean": mean, "scale": scale
    }  # fmt: skip


def norm(case: Case) -> Call:
    draw, t = _normed(case)
    given = {
        "z": draw.last(t["z"]), "gamma": draw.plain(t["gamma"]) if case.optional else None,
        "beta": draw.plain(t["beta"]), "y": draw.out(t["y"]), "place": t["place"] if t["place"] is None else
        torch.full_like(t["place"], 255), "mean": draw.out(t["mean"], False), "scale": draw.out(t["scale"], False),
        "eps": EPS, "window": case.window, "slope": case.slope,
    }  # fmt: skip
    return Call(given, {name: t[name] for name in ("y", "mean", "scale")})


def _saved(draw: Draw, case: Case, t: dict[str, Any]) -> dict[str, Any]:
    return {
        "z": draw.last(t["z"]), "gamma": draw.plain(t["gamma"]) if case.optional else None,
        "mean": draw.plain(t["mean"]), "scale": draw.plain(t["scale"]),
    }  # fmt: skip


def norm_backward(case: Case) -> Call:
    draw, t = _normed(case)
    y_bar = draw(*t["y"].shape)
    z_total, gamma_bar, beta_bar = grad([t["y"]], [t["z"], t["gamma"], t["beta"]], [y_bar])
    given = {
        "y_bar": draw.last(y_bar), "y": draw.last(t["y"]), "place": t["place"], **_saved(draw, case, t),
        "z_total": draw.out(z_total), "gamma_bar": draw.out(gamma_bar, False), "beta_bar": draw.out(beta_bar, False),
        "window": case.window, "slope": case.slope,
    }  # fmt: skip
    return Call(given, {"z_total": z_total, "gamma_bar": gamma_bar, "beta_bar": beta_bar})


def norm_double_backward(case: Case) -> Call:
    draw, t = _normed(case)
    y_bar = draw(*t["y"].shape).requires_grad_()
    first = grad([t["y"]], [t["z"], t["gamma"], t["beta"]], [y_bar])
    Z, G, B = (draw(*g.shape) for g in first)
    if not case.optional:
        G = B = None
    outs = grad(first, [y_bar, t["z"], t["gamma"]], [Z, G, B])
    given = {
        "Z": draw.last(Z), "G": draw.plain(G), "B": draw.plain(B), "y_bar": draw.last(y_bar), "y": draw.last(t["y"]),
        "place": t["place"], **_saved(draw, case, t), "gamma_bar": draw.plain(first[1]),
        "beta_bar": draw.plain(first[2]), "y_bar_out": draw.out(outs[0]), "z_out": draw.out(outs[1]),
        "gamma_out": draw.out(outs[2], False),
        "window": case.window, "slope": case.slope,
    }  # fmt: skip
    return Call(given, dict(zip(("y_bar_out", "z_out", "gamma_out"), outs, strict=True)))


# --- whole blocks ---------------------------------------------------------------------------------------------------


def _block(case: Case) -> tuple[Draw, dict[str, Any]]:
    draw, x, weight, bias, z = _convolved(case)
    z = z.detach().to(case.dtype).double().requires_grad_()  # the ways back take it as it was stored
    channels = z.shape[1]
    gamma = (draw(channels) if case.optional else torch.ones(channels, dtype=torch.float64)).requires_grad_()
    beta = draw(channels).requires_grad_()
    y, place = pooled(normed(z, gamma, beta), case)
    mean, scale = statistics(z)
    return draw, {
        "x": x, "weight": weight, "bias": bias, "gamma": gamma, "beta": beta, "z": z, "y": y, "place": place,
        "mean": mean, "scale": scale,
    }  # fmt: skip


def block(case: Case) -> Call:
    draw, t = _block(case)
    given = {
        "x": draw.last(t["x"]), "weight": draw.last(t["weight"]), "bias": draw.plain(t["bias"]),
        "gamma": draw.plain(t["gamma"]) if case.optional else None, "beta": draw.plain(t["beta"]), "eps": EPS,
        "z": draw.out(t["z"]), "y": draw.out(t["y"]),
        "place": None if t["place"] is None else torch.full_like(t["place"], 255),
        "mean": draw.out(t["mean"], False), "scale": draw.out(t["scale"], False), "stride": case.stride,
        "window": case.window, "slope": case.slope,
    }  # fmt: skip
    return Call(given, {name: t[name] for name in ("z", "y", "mean", "scale")})


def _block_gradients(case: Case, draw: Draw, t: dict[str, Any]) -> dict[str, Any]:
    """What block_backward gives, as functions of its inputs: z_total, x_bar, w_bar, gamma_bar, beta_bar."""
    y_bar, z_bar = draw(*t["y"].shape).requires_grad_(), draw(*t["z"].shape).requires_grad_()
    z_total, gamma_bar, beta_bar = grad([t["y"]], [t["z"], t["gamma"], t["beta"]], [y_bar])
    if case.optional:
        z_total = z_total + z_bar
    x_bar, w_bar = grad([conv(t["x"], t["weight"], None, case.stride)], [t["x"], t["weight"]], [z_total])
    return {
        "y_bar": y_bar, "z_bar": z_bar, "z_total": z_total, "x_bar": x_bar, "w_bar": w_bar, "gamma_bar": gamma_bar,
        "beta_bar": beta_bar,
    }  # fmt: skip


def _block_saved(draw: Draw, case: Case, t: dict[str, Any]) -> dict[str, Any]:
    return {
        "y": draw.last(t["y"]), "place": t["place"], "x": draw.last(t["x"]), "weight": draw.last(t["weight"]),
        "gamma": draw.plain(t["gamma"]) if case.optional else None, "z": draw.last(t["z"]),
        "mean": draw.plain(t["mean"]), "scale": draw.plain(t["scale"]),
    }  # fmt: skip


def block_backward(case: Case) -> Call:
    draw, t = _block(case)
    g = _block_gradients(case, draw, t)
    given = {
        "y_bar": draw.last(g["y_bar"]), "z_bar": draw.last(g["z_bar"]) if case.optional else None,
        **_block_saved(draw, case, t), "z_total": draw.out(g["z_total"]), "x_bar": draw.out(g["x_bar"]),
        "w_bar": draw.out(g["w_bar"]), "gamma_bar": draw.out(g["gamma_bar"], False),
        "beta_bar": draw.out(g["beta_bar"], False), "stride": case.stride, "window": case.window, "slope": case.slope,
    }  # fmt: skip
    return Call(given, {name: g[name] for name in ("z_total", "x_bar", "w_bar", "gamma_bar", "beta_bar")})


def block_double_backward(case: Case) -> Call:
    draw, t = _block(case)
    g = _block_gradients(case, draw, t)
    cotangents = {
        name: draw(*g[bar].shape)
        for name, bar in zip("XWGB", ("x_bar", "w_bar", "gamma_bar", "beta_bar"), strict=True)
    }
    if not case.optional:
        cotangents["G"] = cotangents["B"] = None
    wanted = [g["y_bar"], g["z_total"], t["x"], t["weight"], t["gamma"], t["z"]]
    outs = grad([g["x_bar"], g["w_bar"], g["gamma_bar"], g["beta_bar"]], wanted, list(cotangents.values()))
    names = ("y_bar_out", "Z", "x_out", "w_out", "gamma_out", "z_out")
    expected = dict(zip(names, outs, strict=True))
    given = {
        "X": draw.last(cotangents["X"]), "W": draw.last(cotangents["W"]), "G": draw.plain(cotangents["G"]),
        "B": draw.plain(cotangents["B"]), "y_bar": draw.last(g["y_bar"]), **_block_saved(draw, case, t),
        "gamma_bar": draw.plain(g["gamma_bar"]), "beta_bar": draw.plain(g["beta_bar"]),
        "z_total": draw.last(g["z_total"]), "Z": draw.out(t["z"]), "workspace": draw.out(t["z"]),
        "y_bar_out": draw.out(t["y"]), "x_out": draw.out(t["x"]), "w_out": draw.out(t["weight"]),
        "gamma_out": draw.out(t["gamma"], False), "z_out": draw.out(t["z"]),
        "stride": case.stride, "window": case.window, "slope": case.slope,
    }  # fmt: skip
    return Call(given, expected)


def block_backward_tangent(case: Case) -> Call:
    draw, t = _block(case)
    g = _block_gradients(case, draw, t)
    moved = [g["y_bar"], g["z_bar"], t["x"], t["weight"], t["gamma"], t["z"]]
    dots = [draw(*value.shape) for value in moved]
    if not case.optional:  # gamma is 1 and z_bar is 0 then
        dots[1], dots[4] = torch.zeros_like(dots[1]), torch.zeros_like(dots[4])
    bars = [g[name] for name in ("z_total", "x_bar", "w_bar", "gamma_bar", "beta_bar")]
    ones = [torch.ones_like(bar).requires_grad_() for bar in bars]
    pulled = torch.autograd.grad(bars, moved, ones, create_graph=True, allow_unused=True)
    pairs = [(p, dot) for p, dot in zip(pulled, dots, strict=True) if p is not None]
    found = torch.autograd.grad([p for p, _ in pairs], ones, [dot for _, dot in pairs])
    names = ("z_out", "x_bar", "w_bar", "gamma_out", "beta_out")
    y_bar_dot, z_bar_dot, X, W, G, Z = dots
    given = {
        "y_bar_dot": draw.last(y_bar_dot), "z_bar": draw.last(z_bar_dot) if case.optional else None, "X": draw.last(X),
        "W": draw.last(W), "G": draw.plain(G) if case.optional else None, "Z": draw.last(Z),
        "y_bar": draw.last(g["y_bar"]), **_block_saved(draw, case, t), "gamma_bar": draw.plain(g["gamma_bar"]),
        "beta_bar": draw.plain(g["beta_bar"]), "z_total": draw.last(g["z_total"]), "z_out": draw.out(t["z"]),
        "x_bar": draw.out(t["x"]), "w_bar": draw.out(t["weight"]), "x_out": draw.out(t["x"]),
        "w_out": draw.out(t["weight"]), "gamma_out": draw.out(t["gamma"], False),
        "beta_out": draw.out(t["gamma"], False), "workspace": draw.out(t["z"]), "b_bar": draw.out(t["gamma"], False),
        "stride": case.stride, "window": case.window, "slope": case.slope,
    }  # fmt: skip
    return Call(given, dict(zip(names, found, strict=True)))


# --- first blocks ---------------------------------------------------------------------------------------------------


def patches_of(x: torch.Tensor, stride: int) -> torch.Tensor:
    """(taps, pixels)"""
    return F.unfold(x, 3, padding=1, stride=stride).transpose(0, 1).flatten(1)


def moments_of(x: torch.Tensor, stride: int) -> dict[str, torch.Tensor]:
    patches = patches_of(x, stride)
    return {"patch_mean": patches.mean(1), "patch_covariance": torch.cov(patches, correction=0)}


def _first(case: Case) -> tuple[Draw, dict[str, Any]]:
    draw = Draw(case)
    window = min(case.window, 2)
    x = draw(case.n, case.planes, case.h, case.w)
    channels = case.outputs * case.lanes
    weight = draw(channels, case.planes, 3, 3).requires_grad_()
    gamma = (draw(channels) if case.optional else torch.ones(channels, dtype=torch.float64)).requires_grad_()
    beta = draw(channels).requires_grad_()
    v = normed(conv(x, weight, None, case.stride), gamma, beta)
    y, place = pooled(v, replace(case, window=window))
    return draw, {
        "x": x, "weight": weight, "gamma": gamma, "beta": beta, "v": v, "y": y, "place": place, "window": window,
        "patches": patches_of(x, case.stride), **moments_of(x, case.stride),
    }  # fmt: skip


def _sums(t: dict[str, Any], y_bar: torch.Tensor) -> torch.Tensor:
    """Σ g p over the patches, and Σ g: (taps + 1, channels)."""
    (g,) = grad([t["y"]], [t["v"]], [y_bar])
    rows = g.transpose(0, 1).flatten(1)  # (channels, pixels)
    return torch.cat([t["patches"] @ rows.t(), rows.sum(1)[None]])


def _first_given(draw: Draw, case: Case, t: dict[str, Any]) -> dict[str, Any]:
    return {
        "x": draw.plain(t["x"]), "weight": draw.plain(t["weight"]),
        "gamma": draw.plain(t["gamma"]) if case.optional else None,
    }  # fmt: skip


def _first_moments(t: dict[str, Any]) -> dict[str, Any]:
    return {**{name: t[name].clone() for name in ("patch_mean", "patch_covariance")}, "eps": EPS}


def moments(case: Case) -> Call:
    draw, t = _first(case)
    expected = {name: t[name] for name in ("patch_mean", "patch_covariance")}
    given = {name: torch.full_like(value, torch.nan) for name, value in expected.items()}
    return Call({"x": draw.plain(t["x"]), **given, "stride": case.stride}, expected)


def first(case: Case) -> Call:
    draw, t = _first(case)
    given = {
        **_first_given(draw, case, t), "beta": draw.plain(t["beta"]), **_first_moments(t), "y": draw.out(t["y"]),
        "place": None if t["place"] is None else torch.full_like(t["place"], 255), "stride": case.stride,
        "window": t["window"], "slope": case.slope,
    }  # fmt: skip
    return Call(given, {"y": t["y"]})


def first_backward(case: Case) -> Call:
    draw, t = _first(case)
    y_bar = draw(*t["y"].shape)
    w_bar, gamma_bar, beta_bar = grad([t["y"]], [t["weight"], t["gamma"], t["beta"]], [y_bar])
    sums = _sums(t, y_bar)
    given = {
        "y_bar": draw.last(y_bar), "y": draw.last(t["y"]), "place": t["place"], **_first_given(draw, case, t),
        **_first_moments(t), "sums": torch.full_like(sums, torch.nan), "w_bar": draw.out(w_bar, False),
        "gamma_bar": draw.out(gamma_bar, False), "beta_bar": draw.out(beta_bar, False), "stride": case.stride,
        "window": t["window"], "slope": case.slope,
    }  # fmt: skip
    return Call(given, {"sums": sums, "w_bar": w_bar, "gamma_bar": gamma_bar, "beta_bar": beta_bar})


def first_double_backward(case: Case) -> Call:
    draw, t = _first(case)
    y_bar = draw(*t["y"].shape).requires_grad_()
    bars = grad([t["y"]], [t["weight"], t["gamma"], t["beta"]], [y_bar])
    W, G, B = (draw(*bar.shape) for bar in bars)
    if not case.optional:
        G = B = None
    outs = grad(bars, [y_bar, t["weight"], t["gamma"]], [W, G, B])
    given = {
        "W": draw.plain(W), "G": draw.plain(G), "B": draw.plain(B), "sums": _sums(t, y_bar).detach(),
        "y": draw.last(t["y"]), "place": t["place"], **_first_given(draw, case, t), **_first_moments(t),
        "y_bar_out": draw.out(outs[0]), "w_out": draw.out(outs[1], False), "gamma_out": draw.out(outs[2], False),
        "stride": case.stride, "window": t["window"], "slope": case.slope,
    }  # fmt: skip
    return Call(given, dict(zip(("y_bar_out", "w_out", "gamma_out"), outs, strict=True)))


def correlate(case: Case) -> Call:
    draw, t = _first(case)
    y_bar = draw(*t["y"].shape)
    sums = _sums(t, y_bar)
    given = {
        "y_bar": draw.last(y_bar), "y": draw.last(t["y"]), "place": t["place"], "x": draw.plain(t["x"]),
        "sums": torch.full_like(sums, torch.nan), "stride": case.stride, "window": t["window"], "slope": case.slope,
    }  # fmt: skip
    return Call(given, {"sums": sums})


def spread(case: Case) -> Call:
    draw, t = _first(case)
    y_bar = draw(*t["y"].shape).requires_grad_()
    found = _sums(t, y_bar)
    sums = draw(*found.shape)
    (out,) = grad([found], [y_bar], [sums])
    given = {
        "sums_bar": draw.plain(sums), "y": draw.last(t["y"]), "place": t["place"], "x": draw.plain(t["x"]),
        "y_bar_out": draw.out(out), "stride": case.stride, "window": t["window"], "slope": case.slope,
    }  # fmt: skip
    return Call(given, {"y_bar_out": out})


ENTRIES: dict[str, Callable[[Case], Call]] = {
    function.__name__: function
    for function in (
        convolution, convolution_input, convolution_weight, convolution_bias, pixel_means, spread_means, norm,
        norm_backward, norm_double_backward, block, block_backward, block_double_backward, block_backward_tangent,
        moments, first,
        first_backward, first_double_backward, correlate, spread,
    )
}  # fmt: skip
