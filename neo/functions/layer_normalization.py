"""Layer norm as one Policy on torch's kernels: first and second order by hand, of third order its composition."""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd.policy import Policy, function
from neo.functions._tangents import total
from neo.kernels.rows import layer_norm_second_order

__all__ = ["composed_layer_norm", "layer_normalize"]

_backward = torch.ops.aten.native_layer_norm_backward.default


def composed_layer_norm(x, weight, bias, shape, eps):
    """w x̂ + b of plain functions, the statistics among them."""
    mean, scale = row_statistics(x, shape, eps)
    y = (x - mean) * scale
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def row_statistics(x, shape, eps):
    """Mean and 1/√(variance + eps) over the last dims, of this shape, which are kept; as functions of x."""
    dims = tuple(range(-len(shape), 0))
    mean = x.mean(dims, True)
    away = x - mean
    return mean, torch.rsqrt((away * away).mean(dims, True) + eps)


def pull_back(g, x, weight, mean, scale, shape, mask):
    """(x̄, w̄, b̄) by torch's kernel, None where mask says so."""
    bias = (
        weight if weight is not None else g.new_empty(shape) if mask[2] else None
    )  # looked at for its shape
    return _backward(g, x, shape, mean, scale, weight, bias, list(mask))


class LayerNorm(Policy):
    """y = w x̂ + b,  x̂ = r (x − μ), μ and 1/r² the mean and variance + eps of each row, the last dims of x;
    (x̄, w̄, b̄) = layer_norm_gradient(ȳ, x, w);  ẏ = layer_norm_tangent(ẋ, ẇ, ḃ, x, w).

    μ and r are marked constant: the rule of the gradient counts in that they come from x.
    """

    verified = True
    composition = staticmethod(composed_layer_norm)

    def forward(self, x, weight, bias, shape, eps):
        y, mean, scale = torch.native_layer_norm(x, shape, weight, bias, eps)
        self.ctx.constant(mean, scale)
        self.ctx.save(x, weight, mean, scale, bias is not None, shape, eps)
        return y

    def backward(self, y_bar):
        x, weight, mean, scale, biased, shape, eps = self.ctx.release
        given = (True, weight is not None, biased)
        needs = iter(self.ctx.needs_grad)
        mask = tuple(next(needs) if one else False for one in given)
        found = iter(layer_norm_gradient(y_bar, x, weight, mean, scale, shape, eps, mask))
        bars = [next(found) if wanted else None for wanted in mask]
        return tuple(bar for bar, one in zip(bars, given, strict=True) if one)

    def jvp(self, x_dot, *dots):
        x, weight, mean, scale, biased, shape, eps = self.ctx.release
        w_dot = dots[0] if weight is not None else None
        b_dot = dots[-1] if biased else None
        return layer_norm_tangent(x_dot, w_dot, b_dot, x, weight, mean, scale, shape, eps)


class LayerNormGradient(Policy):
    """x̄ = P(w g),  w̄ = Σ g x̂,  b̄ = Σ g, where mask says so;  P(h) = r (h − ⟨h⟩ − x̂ ⟨h x̂⟩), ⟨⟩ the mean over a row
    and Σ the sum over rows.

    With cotangents (X, W, B) for them and h = w g:
    ḡ = w P(X) + W x̂ + B,  w̄ = Σ g P(X),
    x̄ = P(W g − r (X ⟨h x̂⟩ + h ⟨X x̂⟩)) − r² (⟨X h⟩ − ⟨X⟩ ⟨h⟩ − ⟨X x̂⟩ ⟨h x̂⟩) x̂

    Its tangent is that of (x̄, w̄, b̄) by g, in which they are linear, and by x and w, the derivatives of ⟨g, y⟩ by
    which they are: their second ones are symmetric, so that it is (x̄, w̄) above for (X, W, B) = (ẋ, ẇ, 0).
    """

    verified = True
    once_differentiable = True
    materialize = False

    @staticmethod
    def composition(g, x, weight, mean, scale, shape, eps, mask):
        """μ and r anew as functions of x, which they are."""
        mean, scale = row_statistics(x, shape, eps)
        normal = (x - mean) * scale
        h, rows = g if weight is None else g * weight, tuple(range(-len(shape), 0))
        out = []
        if mask[0]:
            out.append((h - h.mean(rows, True) - normal * (h * normal).mean(rows, True)) * scale)
        return *out, *(
            over_rows(part, shape) for part, wanted in ((g * normal, mask[1]), (g, mask[2])) if wanted
        )

    def forward(self, g, x, weight, mean, scale, shape, eps, mask):
        self.ctx.save(g, x, weight, mean, scale, shape, mask)
        return tuple(bar for bar in pull_back(g, x, weight, mean, scale, shape, mask) if bar is not None)

    def backward(self, *bars):
        *saved, mask = self.ctx.release
        weight = saved[2]
        given = iter(bars)
        X, W, B = (next(given) if wanted else None for wanted in mask)
        need_g, need_x, *need_w = self.ctx.needs_grad
        needs = (need_g, need_x, weight is not None and need_w[0])
        g_bar, x_bar, w_bar = layer_norm_second_order(X, W, B, *saved, needs)
        return g_bar, x_bar, *(() if weight is None else (w_bar,)), None, None

    def jvp(self, g_dot, x_dot, *dots):
        *saved, mask = self.ctx.release
        _, x, weight, mean, scale, shape = saved
        w_dot = None if weight is None else dots[0]
        bars: Any = (None, None, None)
        if g_dot is not None:
            bars = pull_back(g_dot, x, weight, mean, scale, shape, mask)
        if x_dot is not None or w_dot is not None:
            _, of_x, of_w = layer_norm_second_order(x_dot, w_dot, None, *saved, (False, mask[0], mask[1]))
            bars = (total(bars[0], of_x), total(bars[1], of_w), bars[2])
        return tuple(bar for bar, wanted in zip(bars, mask, strict=True) if wanted)


class LayerNormTangent(Policy):
    """ẏ = w P(ẋ) + ẇ x̂ + ḃ, with P as in LayerNormGradient, whose adjoint in g this is.

    With a cotangent c for it: (ẋ, ẇ, ḃ) get what LayerNormGradient gives for g = c, x and w what they get there for
    g = c and (X, W) = (ẋ, ẇ). Its own tangent, for directions (h, ω, β, v, u) of (ẋ, ẇ, ḃ, x, w), is
    w P(h) + ω x̂ + β + u P(ẋ) + ẇ P(v) − w r (P(ẋ) ⟨x̂ v⟩ + P(v) ⟨x̂ ẋ⟩ + x̂ ⟨ẋ P(v)⟩).
    """

    verified = True
    once_differentiable = True

    @staticmethod
    def composition(x_dot, w_dot, b_dot, x, weight, mean, scale, shape, eps):
        """μ and r anew as functions of x, which they are."""
        mean, scale = row_statistics(x, shape, eps)
        normal, y_dot = (x - mean) * scale, None
        if x_dot is not None:
            rows = tuple(range(-len(shape), 0))
            y_dot = (x_dot - x_dot.mean(rows, True) - normal * (x_dot * normal).mean(rows, True)) * scale
            y_dot = y_dot if weight is None else y_dot * weight
        y_dot = total(y_dot, None if w_dot is None else normal * w_dot)
        return total(y_dot, None if b_dot is None else b_dot.expand(tuple(x.shape)))

    def forward(self, x_dot, w_dot, b_dot, x, weight, mean, scale, shape, eps):
        self.ctx.save(x_dot, w_dot, b_dot is not None, x, weight, mean, scale, shape)
        needs = (True, False, False)
        return layer_norm_second_order(x_dot, w_dot, b_dot, None, x, weight, mean, scale, shape, needs)[0]

    def backward(self, c):
        x_dot, w_dot, shifted, x, weight, mean, scale, shape = self.ctx.release
        given = (x_dot is not None, w_dot is not None, shifted)
        needs = iter(self.ctx.needs_grad)
        mask = tuple(next(needs) if one else False for one in given)
        need_x, need_w = next(needs), weight is not None and next(needs)
        bars = pull_back(c, x, weight, mean, scale, shape, mask) if any(mask) else (None, None, None)
        saved = (c, x, weight, mean, scale, shape)
        _, x_bar, w_bar = layer_norm_second_order(x_dot, w_dot, None, *saved, (False, need_x, need_w))
        of_params = (x_bar,) if weight is None else (x_bar, w_bar)
        return *(bar for bar, one in zip(bars, given, strict=True) if one), *of_params, None, None

    def jvp(self, *dots):
        x_dot, w_dot, shifted, x, weight, mean, scale, shape = self.ctx.release
        rest = iter(dots)
        h, omega, beta = (
            next(rest) if one else None for one in (x_dot is not None, w_dot is not None, shifted)
        )
        v, u = next(rest), None if weight is None else next(rest)
        y_dot = layer_norm_second_order(
            h, omega, beta, None, x, weight, mean, scale, shape, (True, False, False)
        )[0]
        P_x, P_v = (
            None if one is None else pull_back(one, x, None, mean, scale, shape, (True, False, False))[0]
            for one in (x_dot, v)
        )
        y_dot = total(y_dot, None if u is None or P_x is None else u * P_x)
        y_dot = total(y_dot, None if w_dot is None or P_v is None else w_dot * P_v)
        if P_x is None or P_v is None:
            return y_dot
        normal, rows = (x - mean) * scale, tuple(range(-len(shape), 0))
        bent = P_x * (normal * v).mean(rows, True) + P_v * (normal * x_dot).mean(rows, True)
        bent = (bent + normal * (x_dot * P_v).mean(rows, True)) * -scale
        return total(y_dot, bent if weight is None else bent * weight)


def over_rows(x, shape):
    """The sum over all dims but the last ones, of this shape."""
    first = x.ndim - len(shape)
    return x.sum(tuple(range(first))) if first else x


layer_normalize = function(LayerNorm, "layer_norm")
layer_norm_gradient = function(LayerNormGradient, "layer_norm_gradient")
layer_norm_tangent = function(LayerNormTangent, "layer_norm_tangent")
