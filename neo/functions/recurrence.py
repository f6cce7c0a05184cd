"""The recurrence of an LSTM as one Policy over all steps; its gradient is made of one Policy a step.

As functions of single ops a step has some fifteen nodes, and three times as many in its gradient; and the gradient of
the recurrent weight is a product and a sum a step, where the rows of all steps make one product.
"""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd.policy import Policy, function
from neo.functions._tangents import total
from neo.functions.linalg import product
from neo.functions.registry import raw
from neo.kernels import direct

__all__ = ["lstm_recurrence"]


def gates(a):
    """(i, f, g, o) of the sums a (n, 4 size)."""
    i, f, g, o = torch.chunk(a, 4, -1)
    return torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)


class LSTMRecurrence(Policy):
    """aₜ = xₜ + W hₜ₋₁,  cₜ = σ(f) cₜ₋₁ + σ(i) tanh(g),  hₜ = σ(o) tanh(cₜ) for (i, f, g, o) = aₜ: all h, c and a.

    (āₜ, c̄ₜ₋₁) = lstm_gradient(h̄ₜ, c̄ₜ, aₜ, cₜ₋₁),  x̄ₜ = āₜ,  h̄ₜ₋₁ += Wᵀ āₜ,  W̄ = Σₜ āₜ hₜ₋₁ᵀ, from the last step to the
    first. c and a are outputs for the gradient's sake, which is a function of them; their cotangents join there.

    x (steps · n, 4 size), h and c at the start (n, size), W (4 size, size); rows are step after step, n each.
    """

    verified = True
    materialize = False

    @staticmethod
    def composition(x, h, c, weight):
        found: Any = ([], [], [])
        for part in torch.split(x, h.shape[0]):
            a = part + h @ weight.T
            i, f, g, o = gates(a)
            c = f * c + i * g
            h = o * torch.tanh(c)
            for rows, row in zip(found, (h, c, a), strict=True):
                rows.append(row)
        return tuple(torch.cat(rows) for rows in found)

    def forward(self, x, h, c, weight):
        self.ctx.save(h, c, weight)
        across, found = weight.t(), []
        for part in torch.split(x, h.shape[0]):
            a = torch.addmm(part, h, across)
            h, c, *_ = direct.lstm_gates(a, c)
            found.append((h, c, a))
        out = tuple(torch.cat(rows) for rows in zip(*found, strict=True))
        self.ctx.save(*out)
        return out

    def backward(self, h_bars, c_bars, a_bars):
        h, c, weight, hs, cs, sums = self.ctx.release
        need_x, need_h, need_c, need_weight = self.ctx.needs_grad
        n = h.shape[0]
        parts = [None if bars is None else torch.split(bars, n) for bars in (h_bars, c_bars, a_bars)]
        before, a = [c, *torch.split(cs, n)[:-1]], torch.split(sums, n)
        h_bar = c_bar = None
        found: list[Any] = [None] * len(a)
        for t in reversed(range(len(a))):
            of_h, of_c, of_a = (None if part is None else part[t] for part in parts)
            h_bar, c_bar = total(h_bar, of_h), total(c_bar, of_c)
            if h_bar is None and c_bar is None:
                found[t] = torch.zeros_like(raw(a[t])) if of_a is None else of_a
            else:
                h_bar = torch.zeros_like(raw(before[t])) if h_bar is None else h_bar
                found[t], c_bar = lstm_gradient(h_bar, c_bar, a[t], before[t])
                found[t] = total(found[t], of_a)
            h_bar = product(found[t], weight) if t or need_h else None
        x_bar = torch.cat(found)
        w_bar = None
        if need_weight:
            w_bar = product(x_bar, torch.cat([h, hs[: hs.shape[0] - n]]) if len(a) > 1 else h, True)
        if need_c and c_bar is None:
            c_bar = torch.zeros_like(raw(c))
        return x_bar if need_x else None, h_bar if need_h else None, c_bar if need_c else None, w_bar

    def jvp(self, x_dot, h_dot, c_dot, w_dot):
        h, c, weight, hs, cs, sums = self.ctx.release
        n = h.shape[0]
        before, earlier = [c, *torch.split(cs, n)[:-1]], [h, *torch.split(hs, n)[:-1]]
        now = torch.split(cs, n)
        x_dots = None if x_dot is None else torch.split(x_dot, n)
        h_dot = torch.zeros_like(raw(h)) if h_dot is None else h_dot
        c_dot = torch.zeros_like(raw(c)) if c_dot is None else c_dot
        found = []
        for t, a in enumerate(torch.split(sums, n)):
            a_dot = total(None if x_dots is None else x_dots[t], product(h_dot, weight, False, True))
            a_dot = total(a_dot, None if w_dot is None else product(earlier[t], w_dot, False, True))
            i, f, g, o = gates(a)
            i_dot, f_dot, g_dot, o_dot = torch.chunk(a_dot, 4, -1)
            c_dot = f * (c_dot + (1 - f) * f_dot * before[t]) + i * (
                (1 - i) * g * i_dot + (1 - g * g) * g_dot
            )
            th = torch.tanh(now[t])
            h_dot = o * ((1 - o) * o_dot * th + (1 - th * th) * c_dot)
            found.append((h_dot, c_dot, a_dot))
        return tuple(torch.cat(rows) for rows in zip(*found, strict=True))


class LSTMGradient(Policy):
    """With τ = tanh(c′), c′ = f c + i g and d = c̄′ + h̄ o (1 − τ²):
    ā = (d g i′, d c f′, d i g′, h̄ τ o′),  c̄ = d f;  i′ = i (1 − i), f′ and o′ likewise, g′ = 1 − g².

    Its gradient for cotangents (I, F, G, O) and C of ā and c̄, with D = I g i′ + F c f′ + G i g′ + C f, that of d,
    and T = h̄ τ′ (O o′ − 2 τ o D), which is that of c′, τ′ = 1 − τ²:
    that of h̄ is D o τ′ + O τ o′, that of c̄′ D, that of c F d f′ + T f, and those of the four parts of a
    i′ (d (I g (1 − 2 i) + G g′) + T g),  f′ (d (F c (1 − 2 f) + C) + T c),  g′ (d (I i′ − 2 g i G) + T i),
    h̄ o′ (D τ′ + O τ (1 − 2 o)).

    Its tangent along a and c is the same as their gradient for (I, F, G, O, C) = (ȧ, ċ): second derivatives are
    symmetric. In h̄ and c̄′ it is linear.
    """

    verified = True
    once_differentiable = True
    materialize = False

    @staticmethod
    def composition(h_bar, c_bar, a, c):
        i, f, g, o = gates(a)
        tau = torch.tanh(f * c + i * g)
        d = h_bar * o * (1 - tau * tau)
        d = d if c_bar is None else d + c_bar
        parts = (d * g * i * (1 - i), d * c * f * (1 - f), d * i * (1 - g * g), h_bar * tau * o * (1 - o))
        return torch.cat(parts, -1), d * f

    def forward(self, h_bar, c_bar, a, c):
        *_, parts, tau = direct.lstm_gates(a, c)
        h_bar, c_bar, c = (None if x is None else x.contiguous() for x in (h_bar, c_bar, c))
        self.ctx.save(h_bar, c_bar, c, parts, tau)
        self.ctx.constant(parts, tau)
        return direct.lstm_gradient(h_bar, c_bar, c, parts, tau)

    def backward(self, a_cotangent, C):
        _, c_bar, *_ = self.ctx.release
        h_out, d_out, a_out, c_out = self.second_order(a_cotangent, C)
        return h_out, *(() if c_bar is None else (d_out,)), a_out, c_out

    def jvp(self, h_dot, *dots):
        _, c_bar, c, *parts = self.ctx.release
        c_bar_dot, a_dot, c_dot = dots if c_bar is not None else (None, *dots)
        of_a = of_c = None
        if h_dot is not None or c_bar_dot is not None:
            h_dot = torch.zeros_like(c) if h_dot is None else h_dot
            of_a, of_c = direct.lstm_gradient(h_dot, c_bar_dot, c, *parts)
        if a_dot is not None or c_dot is not None:
            _, _, a_out, c_out = self.second_order(a_dot, c_dot)
            of_a, of_c = total(of_a, a_out), total(of_c, c_out)
        return of_a, of_c

    def second_order(self, A, C):
        """The cotangents of h̄, c̄′, a and c for A and C, those of ā and c̄; None for zero."""
        h_bar, c_bar, c, *parts = self.ctx.release
        A = c.new_zeros((c.shape[0], 4 * c.shape[1])) if A is None else A
        return direct.lstm_double_backward(A, C, h_bar, c_bar, c, *parts)


lstm_recurrence = function(LSTMRecurrence, "lstm")
lstm_gradient = function(LSTMGradient, "lstm_gradient")
