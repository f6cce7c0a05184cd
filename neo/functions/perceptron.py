"""A perceptron, affine layers with activations between them, as one Policy; so is its gradient, with its own by hand.

As functions of single ops a small net's meta-gradient is a hundred calls of kernels that have nothing to compute; here
it is a dozen. The activations are those whose slope is a function of their value.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from neo.autograd._queries import autocast_enabled
from neo.autograd.policy import Policy, function
from neo.functions._stacks import on_stacks
from neo.functions._tangents import total
from neo.functions.activations import rectified
from neo.functions.linalg import affine, product
from neo.kernels import direct

__all__ = ["ACTIVATIONS", "perceptron"]

ACTIVATIONS: dict[str, Any] = {
    "r": torch.relu,
    "t": torch.tanh,
    "s": torch.sigmoid,
    "-": lambda a: a,
}
"""A letter of `kinds` → φ."""
SLOPED: dict[str, Any] = {
    "r": rectified,
    "t": lambda u, h: u * (1 - h * h),
    "s": lambda u, h: u * (h * (1 - h)),
    "-": lambda u, h: u,
}
"""A letter of `kinds` → u φ′ for h = φ(a)."""
BENT: dict[str, Any] = {"t": lambda h: -2 * h, "s": lambda h: 1 - 2 * h}
"""A letter of `kinds` → dφ′/dh, where that is not zero."""


def layer_by_layer(kinds, every, x, *layers):
    """The outputs of the layers, of plain functions: of all, or a tuple of the last alone."""
    out, count = [], len(kinds)
    for weight, bias, kind in zip(layers[:count], layers[count:], kinds, strict=True):
        x = ACTIVATIONS[kind](F.linear(x, weight, bias))
        out.append(x)
    return tuple(out if every else out[-1:])


class Perceptron(Policy):
    """hᵢ = φᵢ(hᵢ₋₁ Wᵢᵀ + bᵢ), h₀ = x: the outputs of all layers, of which the last is the net's;
    (x̄, W̄, b̄) = perceptron_gradient(h̄, x, W, h);  ḣᵢ = φᵢ′ (ḣᵢ₋₁ Wᵢᵀ + hᵢ₋₁ Ẇᵢᵀ + ḃᵢ).

    The h within are outputs for the gradient's sake, which is a function of them; what a higher order has for them
    joins there. every: whether they are wanted where nothing records the call and no gradient will ask for them.

    kinds: a letter of ACTIVATIONS for each layer. x (n, in); layers: W₁, W₂, ..., b₁, b₂, ...
    """

    verified = True
    materialize = False
    composition = staticmethod(layer_by_layer)

    def forward(self, kinds, every, x, *layers):
        count = len(kinds)
        out = on_stacks(
            direct.perceptron,
            direct.perceptron,
            x,
            layers[:count],
            layers[count:],
            kinds,
            every or self.ctx.recorded,
        )
        # The net's output is not kept where its slope is one.
        self.ctx.save(kinds, x, *layers[:count], *(out[:-1] if kinds[-1] == "-" else out))
        return out

    def backward(self, *bars):
        kinds, x, *layers = self.ctx.release
        needs = self.ctx.needs_grad
        if bars[-1] is None:
            bars = (*bars[:-1], nothing(x, layers[len(kinds) - 1]))
        found = perceptron_gradient(kinds, needs, x, *layers, *bars)
        if all(needs):
            return found
        found = iter(found)
        return tuple([next(found) if need else None for need in needs])

    def jvp(self, x_dot, *dots):
        kinds, x, *layers = self.ctx.release
        count, found = len(kinds), []
        outputs = layers[count:] if len(layers) == 2 * count else [*layers[count:], None]
        for i, h in enumerate(outputs):
            weight, w_dot, b_dot = layers[i], dots[i], dots[count + i]
            a_dot = None if x_dot is None else product(x_dot, weight, False, True)
            if b_dot is None:
                a_dot = total(a_dot, None if w_dot is None else product(x, w_dot, False, True))
            elif w_dot is None:
                a_dot = total(a_dot, b_dot.expand((x.shape[0], weight.shape[0])))
            else:
                a_dot = total(a_dot, affine(x, w_dot, b_dot))
            x, x_dot = h, None if a_dot is None else SLOPED[kinds[i]](a_dot, h)
            found.append(x_dot)
        return tuple(found)


class PerceptronGradient(Policy):
    """From the last layer to the first, with uᵢ = h̄ᵢ + δᵢ₊₁ Wᵢ₊₁ and δᵢ = φᵢ′ uᵢ:
    W̄ᵢ = δᵢᵀ hᵢ₋₁,  b̄ᵢ = the sum of δᵢ's rows,  x̄ = δ₁ W₁.

    Its gradient for cotangents X, Ωᵢ, βᵢ of x̄, W̄ᵢ, b̄ᵢ, from the first layer to the last, with U₀ = X: that of δᵢ is
    Δᵢ = hᵢ₋₁ Ωᵢᵀ + βᵢ + Uᵢ₋₁ Wᵢᵀ, that of uᵢ, and so of h̄ᵢ, Uᵢ = φᵢ′ Δᵢ, that of Wᵢ is δᵢᵀ Uᵢ₋₁, and that of hᵢ
    δᵢ₊₁ Ωᵢ₊₁ + Δᵢ uᵢ dφᵢ′/dhᵢ, φᵢ′ being a function of hᵢ.

    mask: which of x̄, W̄₁, ..., b̄₁, ... are wanted; those are given. tensors: W₁, ..., h₁, ..., h̄₁, ...; the last h may
    be left out where its slope is one, and any h̄ but the last may be None.
    """

    verified = True
    once_differentiable = True
    materialize = False

    @staticmethod
    def composition(kinds, mask, x, *tensors):
        weights, outputs, bars = parts(kinds, tensors)
        count, u = len(weights), bars[-1]
        found: list[Any] = [None] * (2 * count + 1)
        for i in reversed(range(count)):
            delta = SLOPED[kinds[i]](u, outputs[i] if i < len(outputs) else None)
            found[1 + i] = product(delta, outputs[i - 1] if i else x, True) if mask[1 + i] else None
            found[1 + count + i] = delta.sum(0) if mask[1 + count + i] else None
            u = total(product(delta, weights[i]), bars[i - 1] if i else None)
        found[0] = u
        return tuple(bar for bar, wanted in zip(found, mask, strict=True) if wanted)

    def forward(self, kinds, mask, x, *tensors):
        weights, outputs, bars = parts(kinds, tensors)
        bars = tuple([bar if bar is None else bar.contiguous() for bar in bars])
        found, us = on_stacks(
            direct.perceptron_gradient,
            direct.perceptron_gradient,
            *(bars, x, weights, outputs, kinds, mask, self.ctx.recorded),
        )
        self.ctx.constant(*bars, *us)
        self.ctx.save(kinds, mask, x, *weights, *outputs, *bars, *us)
        return found

    def backward(self, *cotangents):
        kinds, mask, x, weights, outputs, bars, us = self.saved()
        count, given = len(kinds), iter(cotangents)
        X, *rest = (next(given) if wanted else None for wanted in mask)
        Ws = tuple(rest[:count])
        Bs = tuple(one if one is None else one.contiguous() for one in rest[count:])
        needs = self.ctx.needs_grad[: 1 + count + len(outputs)]
        bars_out, x_out, weights_out, outputs_out = on_stacks(
            direct.perceptron_double_backward,
            direct.perceptron_double_backward,
            *(X, Ws, Bs, bars, x, weights, outputs, us, kinds, needs),
        )
        of_given = [out for out, bar in zip(bars_out, bars, strict=True) if bar is not None]
        return x_out, *weights_out, *outputs_out, *of_given

    def jvp(self, *dots):
        """By torch's functions: u̇, δ̇ and what is made of them, layer by layer."""
        kinds, mask, x, weights, outputs, bars, us = self.saved()
        count = len(kinds)
        x_dot, *rest = dots
        w_dots, h_dots = rest[:count], [*rest[count : count + len(outputs)], None]
        given = iter(rest[count + len(outputs) :])
        bar_dots = [None if bar is None else next(given) for bar in bars]
        found: list[Any] = [None] * (2 * count + 1)
        u_dot = bar_dots[-1]
        for i in reversed(range(count)):
            below, below_dot = (outputs[i - 1], h_dots[i - 1]) if i else (x, x_dot)
            u, h = bars[-1] if i == count - 1 else us[i], outputs[i] if i < len(outputs) else None
            if u is None:  # nobody asks for what is below
                break
            delta = SLOPED[kinds[i]](u, h)
            delta_dot = None if u_dot is None else SLOPED[kinds[i]](u_dot, h)
            if h_dots[i] is not None and kinds[i] in BENT:
                delta_dot = total(delta_dot, h_dots[i] * u * BENT[kinds[i]](h))
            found[1 + i] = total(
                None if delta_dot is None else product(delta_dot, below, True),
                None if below_dot is None else product(delta, below_dot, True),
            )
            found[1 + count + i] = None if delta_dot is None else delta_dot.sum(0)
            u_dot = total(
                None if delta_dot is None else product(delta_dot, weights[i]),
                None if w_dots[i] is None else product(delta, w_dots[i]),
                bar_dots[i - 1] if i else None,
            )
        found[0] = u_dot
        return tuple(dot for dot, wanted in zip(found, mask, strict=True) if wanted)

    def saved(self):
        """kinds, mask, x, weights, outputs, bars, us."""
        kinds, mask, x, *tensors = self.ctx.release
        last = len(tensors) - len(kinds) + 1
        return kinds, mask, x, *parts(kinds, tuple(tensors[:last])), tuple(tensors[last:])


def parts(kinds, tensors):
    """PerceptronGradient's weights, outputs and bars."""
    count = len(kinds)
    return tensors[:count], tensors[count:-count], tensors[-count:]


_perceptron = function(Perceptron, "perceptron")
perceptron_gradient = function(PerceptronGradient, "perceptron_gradient")


def nothing(x: Any, weight: Any) -> torch.Tensor:
    """Zeros in the shape of the output of a net with this input and last weight."""
    return torch.zeros((x.shape[0], weight.shape[0]), dtype=x.dtype, device=x.device)


def perceptron(kinds, x, *layers):
    """The layers' output as one op. x (n, in), a LiteTensor or a constant; layers: all weights (out, in), then all
    biases (out,).

    kinds: a letter for each layer: r for ReLU, t for tanh, s for sigmoid, - for none. Under torch.autocast, and for
    tensors of several dtypes or other shapes, layer by layer.
    """
    if x.ndim != 2 or autocast_enabled() or not _alike(x.dtype, layers):
        return layer_by_layer(kinds, False, x, *layers)[-1]
    return _perceptron(kinds, False, x, *layers)[-1]


def _alike(dtype: torch.dtype, layers: tuple[Any, ...]) -> bool:
    count = len(layers) // 2
    for i, layer in enumerate(layers):
        if layer.dtype is not dtype or layer.ndim != (2 if i < count else 1):
            return False
    return True
