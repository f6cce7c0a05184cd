"""Attention's core as one Policy on Neo's kernels: first and second order by hand, of third order its composition.

What it replaces is a dozen ops with little to compute: heads apart, scaled, two products with a softmax between, heads
together again; and some thirty more for the gradient.
"""

from __future__ import annotations

from typing import Any

import torch

from neo import kernels
from neo.autograd.policy import Policy, function
from neo.functions._tangents import total
from neo.functions.registry import raw
from neo.kernels.attention import (
    apart,
    attention,
    attention_gradient,
    attention_second_order,
    by_head,
    from_heads,
    weights_of,
)

__all__ = ["attend", "attend_within", "takes"]


def takes(*tensors: Any) -> bool:
    """Whether Neo's kernels compute the core of these: float32 or float64 on the CPU, none empty, all of one dtype."""
    if not (kernels.own_products() and kernels.available()):
        return False
    dtype = tensors[0].dtype
    return dtype in (torch.float32, torch.float64) and all(
        x.dtype is dtype and raw(x).is_cpu and raw(x).numel() > 0 for x in tensors
    )


def attend(query: Any, key: Any, value: Any, causal: bool, scale: float) -> Any:
    """softmax(s Q Kᵀ) V, of stacks (sequences, heads, places, width) as `takes` says, all with the same first two dims.

    causal: a place attends to none after it. In memory the heads of a place lie side by side in what this gives.
    """
    return _attention(0, False, causal, float(scale), query, key, value)


def attend_within(rows: Any, heads: int, places_first: bool) -> Any:
    """Self-attention of rows (sequences, places, 3 · heads · width), or with places first, as `takes` says: in a row
    the queries of all heads, then the keys, then the values. s = 1/√width.

    → (sequences, places, heads · width), places first where they were.
    """
    width = rows.shape[-1] // (3 * heads)
    return _attention(heads, places_first, False, (1 / width) ** 0.5, rows)


class Attention(Policy):
    """O = P V,  P = softmax(s Q Kᵀ), by heads;  (Q̄, K̄, V̄) = attention_gradient(Ō, Q, K, V).

    P is saved, and marked constant: the rule of the gradient counts in that it comes from Q and K. heads: 0, and
    tensors Q, K and V as stacks; or one tensor with all of them in its rows. neo/kernels/attention.py has the layouts.
    """

    verified = True

    @staticmethod
    def composition(heads, places_first, causal, scale, *tensors):
        q, k, v = apart(tensors, heads, places_first)
        out = torch.matmul(weights_of(q, k, causal, scale), v)
        return from_heads((out,), places_first) if heads else out

    def forward(self, heads, places_first, causal, scale, *tensors):
        out, weights = attention(tensors, heads, places_first, causal, scale)
        self.ctx.constant(weights)
        self.ctx.save(heads, places_first, causal, scale, weights, *tensors)
        return out

    def backward(self, g):
        heads, places_first, causal, scale, weights, *tensors = self.ctx.release
        needs = self.ctx.needs_grad
        found = iter(core_gradient(heads, places_first, causal, scale, needs, g, weights, *tensors))
        return tuple([next(found) if need else None for need in needs])

    def jvp(self, *dots):
        heads, places_first, causal, scale, weights, *tensors = self.ctx.release
        moved = tuple(dot is not None for dot in dots)
        given = [dot for dot in dots if dot is not None]
        return core_tangent(heads, places_first, causal, scale, moved, weights, *tensors, *given)


class AttentionGradient(Policy):
    """V̄ = Pᵀ G,  D = G Vᵀ,  R̄ = s P (D − Σ D P),  Q̄ = R̄ K,  K̄ = R̄ᵀ Q, those that `needs` says; Σ over a row's keys.

    With cotangents A, B, C for Q̄, K̄, V̄, and Z = s (A Kᵀ + Q Bᵀ):
    Y = P (Z − Σ Z P),  Ḡ = Y V + P C,  V̄ = Yᵀ G,
    E = Z (D − Σ D P) − D Σ Z P + G Cᵀ,  T = s P (E − Σ E P),  Q̄ = T K + R̄ B,  K̄ = Tᵀ Q + R̄ᵀ A.

    Its tangent is that of (Q̄, K̄, V̄) by G, in which they are linear, and by Q, K and V, the derivatives of ⟨G, O⟩ by
    which they are: their second ones are symmetric, so that it is the above for their tangents as A, B and C.
    """

    verified = True
    once_differentiable = True
    materialize = False

    @staticmethod
    def composition(heads, places_first, causal, scale, needs, g, weights, *tensors):
        """P anew as a function of Q and K, which it is."""
        q, k, v = apart(tensors, heads, places_first)
        weights = weights_of(q, k, causal, scale)
        (g,) = by_head(g, 1, heads, places_first) if heads else (g,)
        d = torch.matmul(g, v.transpose(-2, -1))
        d = weights * (d - (d * weights).sum(-1, True)) * scale
        bars = (
            torch.matmul(d, k),
            torch.matmul(d.transpose(-2, -1), q),
            torch.matmul(weights.transpose(-2, -1), g),
        )
        if heads:
            return (from_heads(bars, places_first),)
        return tuple(bar for bar, need in zip(bars, needs, strict=True) if need)

    def forward(self, heads, places_first, causal, scale, needs, g, weights, *tensors):
        self.ctx.save(heads, places_first, scale, needs, g, weights, *tensors)
        bars = attention_gradient(g, tensors, weights, heads, places_first, scale, needs)
        return tuple([bar for bar in bars if bar is not None])

    def backward(self, *cotangents):
        heads, places_first, scale, mask, g, weights, *tensors = self.ctx.release
        given = iter(cotangents)
        each = tuple([next(given) if wanted else None for wanted in mask])
        need_g, _, *needs = self.ctx.needs_grad
        g_bar, bars = attention_second_order(
            each, g, tuple(tensors), weights, heads, places_first, scale, (need_g, *needs)
        )
        return g_bar, None, *bars

    def jvp(self, g_dot, _, *dots):
        heads, places_first, scale, mask, g, weights, *rest = self.ctx.release
        tensors, of_g, of_tensors = tuple(rest), (None,) * len(mask), (None,) * len(mask)
        if g_dot is not None:
            of_g = attention_gradient(g_dot, tensors, weights, heads, places_first, scale, mask)
        if any(dot is not None for dot in dots):
            _, of_tensors = attention_second_order(
                dots, g, tensors, weights, heads, places_first, scale, (False, *mask)
            )
        pairs = zip(of_g, of_tensors, mask, strict=True)
        return tuple([total(one, other) for one, other, wanted in pairs if wanted])


class AttentionTangent(Policy):
    """Ȯ = Y V + P V̇,  Y = P (Z − Σ Z P),  Z = s (Q̇ Kᵀ + Q K̇ᵀ): the adjoint of AttentionGradient in G.

    With a cotangent G for it, (Q̇, K̇, V̇) get what AttentionGradient gives, and (Q, K, V) what they get there for
    A = Q̇, B = K̇, C = V̇. moved: which of the tensors have a tangent; those follow the tensors.
    """

    verified = True
    once_differentiable = True

    @staticmethod
    def composition(heads, places_first, causal, scale, moved, weights, *tensors):
        """P anew as a function of Q and K, which it is."""
        tensors, dots = tensors[: len(moved)], spread(moved, tensors[len(moved) :])
        q, k, v = apart(tensors, heads, places_first)
        weights = weights_of(q, k, causal, scale)
        q_dot, k_dot, v_dot = apart(dots, heads, places_first)
        z = total(
            None if q_dot is None else torch.matmul(q_dot, k.transpose(-2, -1)),
            None if k_dot is None else torch.matmul(q, k_dot.transpose(-2, -1)),
        )
        out = None
        if z is not None:
            z = z * scale
            out = torch.matmul(weights * (z - (z * weights).sum(-1, True)), v)
        out = total(out, None if v_dot is None else torch.matmul(weights, v_dot))
        return from_heads((out,), places_first) if heads else out

    def forward(self, heads, places_first, causal, scale, moved, weights, *tensors):
        self.ctx.save(heads, places_first, scale, moved, weights, *tensors)
        tensors, dots = tensors[: len(moved)], spread(moved, tensors[len(moved) :])
        needs = (True, *(False,) * len(moved))
        return attention_second_order(dots, None, tensors, weights, heads, places_first, scale, needs)[0]

    def backward(self, g):
        heads, places_first, scale, moved, weights, *rest = self.ctx.release
        tensors, dots = tuple(rest[: len(moved)]), spread(moved, tuple(rest[len(moved) :]))
        _, *needs = self.ctx.needs_grad
        needs, dots_needed = needs[: len(moved)], spread(moved, tuple(needs[len(moved) :]))
        mask = tuple(need is True for need in dots_needed)
        dot_bars = attention_gradient(g, tensors, weights, heads, places_first, scale, mask)
        _, bars = attention_second_order(
            dots, g, tensors, weights, heads, places_first, scale, (False, *needs)
        )
        return None, *bars, *(bar for bar, one in zip(dot_bars, moved, strict=True) if one)

    def jvp(self, *dots):
        return self.composed_jvp(*dots)


def spread(moved, given):
    """One entry for each tensor: the given ones where it is moved, None elsewhere."""
    given = iter(given)
    return tuple([next(given) if one else None for one in moved])


_attention = function(Attention, "scaled_dot_product_attention")
core_gradient = function(AttentionGradient, "attention_gradient")
core_tangent = function(AttentionTangent, "attention_tangent")
