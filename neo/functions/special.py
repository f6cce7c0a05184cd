"""Special functions of one number, and of two: Bessel, error, gamma, entropy. y = f(x), x̄ = ȳ f′(x)."""

from __future__ import annotations

import math

import torch

from neo.autograd.policy import function
from neo.functions._kinks import without_slope
from neo.functions.elementwise import Binary, Unary, is_number
from neo.functions.piecewise import Step
from neo.functions.registry import implements
from neo.functions.transcendental import OfInput, OfOutput, polygamma

# --- modified Bessel functions; the scaled ones are e^(−|x|) times the plain --------------------------------------


@implements(torch.special.i0, torch.i0)
class I0(OfInput):
    """y = I₀(x);  x̄ = ȳ I₁(x)."""

    value = staticmethod(torch.special.i0)

    def slope(self, x):
        return torch.special.i1(x)


@implements(torch.special.i0e)
class I0e(OfInput):
    """y = e^(−|x|) I₀(x);  x̄ = ȳ (I₁ₑ(x) − sign x y)."""

    value = staticmethod(torch.special.i0e)

    def slope(self, x):
        return torch.special.i1e(x) - torch.sign(x) * torch.special.i0e(x)


@implements(torch.special.i1)
class I1(OfInput):
    """y = I₁(x);  x̄ = ȳ (I₀(x) − I₁(x) / x)."""

    value = staticmethod(torch.special.i1)

    def slope(self, x):
        return torch.special.i0(x) - bessel_ratio(x, 1, False)


@implements(torch.special.i1e)
class I1e(OfInput):
    """y = e^(−|x|) I₁(x);  x̄ = ȳ (I₀ₑ(x) − sign x y − y / x)."""

    value = staticmethod(torch.special.i1e)

    def slope(self, x):
        scaled = torch.special.i1e(x)
        return torch.special.i0e(x) - torch.sign(x) * scaled - bessel_ratio(x, 1, True)


class BesselRatio(Unary):
    """y = Iₘ(x) / xᵐ, an even function that is smooth at 0;  x̄ = ȳ x times that of m + 1.
    scaled: times e^(−|x|), and x̄ is less by ȳ sign x y.

    The power series where |x| ≤ 8, whose terms all have one sign; beyond, Iₘ₊₁ = Iₘ₋₁ − 2m Iₘ / x.
    """

    def forward(self, x, m, scaled):
        self.ctx.save(x, m, scaled)
        near = torch.abs(x) <= 8
        small = torch.where(near, x, 0.0)
        series = self.series(small * small / 4, m) * (torch.exp(-torch.abs(small)) if scaled else 1.0)
        return torch.where(near, series, self.recurrence(torch.where(near, 8.0, x), m, scaled))

    @staticmethod
    def series(quarter, m):
        """2⁻ᵐ Σ (x²/4)ᵏ / (k! (m + k)!), from the last term on."""
        total = torch.zeros_like(quarter)
        for k in range(28, -1, -1):
            total = total * quarter + 1 / (math.factorial(k) * math.factorial(m + k))
        return total / 2**m

    @staticmethod
    def recurrence(x, m, scaled):
        one, two = (torch.special.i0e, torch.special.i1e) if scaled else (torch.special.i0, torch.special.i1)
        before, ratio = one(x), two(x) / x
        for k in range(1, m):
            before, ratio = ratio, (before - 2 * k * ratio) / (x * x)
        return ratio

    def backward(self, y_bar):
        x, m, scaled = self.ctx.release
        slope = x * bessel_ratio(x, m + 1, scaled)
        return y_bar * (slope - torch.sign(x) * bessel_ratio(x, m, scaled) if scaled else slope)


bessel_ratio = function(BesselRatio, "bessel_ratio")


# --- the normal distribution ---------------------------------------------------------------------------------


@implements(torch.special.ndtr)
class Ndtr(OfInput):
    """y = Φ(x);  x̄ = ȳ e^(−x²/2) / √(2π)."""

    value = staticmethod(torch.special.ndtr)

    def slope(self, x):
        return torch.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))


@implements(torch.special.ndtri)
class Ndtri(OfOutput):
    """y = Φ⁻¹(x);  x̄ = ȳ √(2π) e^(y²/2)."""

    value = staticmethod(torch.special.ndtri)

    def slope(self, y):
        return torch.exp(y * y * 0.5) * math.sqrt(2 * math.pi)


@implements(torch.special.log_ndtr)
class LogNdtr(OfInput):
    """y = log Φ(x);  x̄ = ȳ φ(x) / Φ(x) = ȳ √(2/π) / erfcx(−x/√2), which never is 0/0."""

    value = staticmethod(torch.special.log_ndtr)

    def slope(self, x):
        return math.sqrt(2 / math.pi) / torch.special.erfcx(x * -math.sqrt(0.5))


@implements(torch.special.erfcx)
class Erfcx(Unary):
    """y = e^(x²) erfc x;  x̄ = ȳ (2 x y − 2/√π)."""

    def forward(self, x):
        y = torch.special.erfcx(x)
        self.ctx.save(x, y)
        return y

    def backward(self, y_bar):
        x, y = self.ctx.release
        return y_bar * (x * y * 2 - 2 / math.sqrt(math.pi))


# --- entropy and its kin -------------------------------------------------------------------------------------


@implements(torch.special.entr)
class Entr(OfInput):
    """y = −x log x, 0 at 0, −∞ below;  x̄ = −ȳ (1 + log x)."""

    value = staticmethod(torch.special.entr)

    def slope(self, x):
        return -(torch.log(x) + 1)


class XLog1pY(Binary):
    """z = x log(1 + y), 0 where x = 0;  x̄ = z̄ log(1 + y) (0 where x = 0 and y ≤ −1), ȳ = z̄ x / (1 + y)."""

    def forward(self, x, y):
        self.ctx.save(x, y)
        return torch.special.xlog1py(x, y)

    def partials(self, of_x, of_y):
        x, y = self.ctx.release
        if of_x is not None:
            flat = (x == 0) & (y <= -1)
            of_x = of_x * torch.where(flat, 0.0, torch.log1p(torch.where(flat, 0.0, y)))
        return of_x, None if of_y is None else of_y * x / (y + 1)


_xlog1py = function(XLog1pY, "xlog1py")


@implements(torch.special.xlog1py)
def xlog1py(x, other):
    """x log(1 + y), 0 where x = 0; tensors or numbers, broadcast."""
    if is_number(x):
        x = torch.full_like(other, x)
    return _xlog1py(x, torch.full_like(x, other) if is_number(other) else other)


@implements(torch.mvlgamma, torch.special.multigammaln)
def mvlgamma(x, p):
    """log Γₚ(x) = p (p − 1) / 4 log π + Σ log Γ(x − j/2) over j < p, for x > (p − 1) / 2."""
    total = torch.lgamma(x)
    for j in range(1, p):
        total = total + torch.lgamma(x - j / 2)
    return total + p * (p - 1) / 4 * math.log(math.pi)


@implements(torch.special.polygamma, torch.Tensor.polygamma, only=True)
def polygamma_either_way(n, x):
    """ψ⁽ⁿ⁾(x); torch.Tensor.polygamma takes the tensor first."""
    return polygamma(x, n) if isinstance(x, int) else polygamma(n, x)


# --- parts of a number ---------------------------------------------------------------------------------------


@implements(torch.angle)
class Angle(Step):
    """y = 0 for x ≥ 0, π below;  x̄ = 0."""

    def forward(self, x):
        return torch.angle(x)


class CopySign(Binary):
    """z = |x| with the sign of y;  x̄ = z̄ z / x, 0 where x = 0; ȳ = 0."""

    def forward(self, x, y):
        z = torch.copysign(x, y)
        self.ctx.save(self.ctx.constant(torch.sign(x) * torch.sign(z)), x)
        return z

    def partials(self, of_x, of_y):
        ratio, x = self.ctx.release
        return None if of_x is None else without_slope(of_x * ratio, x, x == 0), None


_copysign = function(CopySign, "copysign")


@implements(torch.copysign)
def copysign(x, other):
    """|x| with the sign of y; tensors, or a number for y, broadcast."""
    return _copysign(x, torch.full_like(x, other) if is_number(other) else other)


@implements(torch.ldexp)
def ldexp(x, other):
    """x 2^y, broadcast."""
    return x * torch.pow(2.0, other)


class Frexp(Unary):
    """(m, e) with x = m 2ᵉ, ½ ≤ |m| < 1;  x̄ = m̄ 2⁻ᵉ."""

    def forward(self, x):
        m, e = torch.frexp(x)
        self.ctx.save(e)
        return m, e

    def backward(self, m_bar, e_bar):
        (e,) = self.ctx.release
        return m_bar * torch.exp2(-e.to(m_bar.dtype))

    def jvp(self, x_dot):
        (e,) = self.ctx.release
        return x_dot * torch.exp2(-e.to(x_dot.dtype)), None


_frexp = function(Frexp, "frexp")


@implements(torch.frexp)
def frexp(x):
    """(mantissa, exponent)."""
    return torch.return_types.frexp(_frexp(x))


@implements(torch.float_power)
def float_power(x, exponent):
    """x^y in float64."""
    x, exponent = (t if is_number(t) else t.to(torch.float64) for t in (x, exponent))
    return torch.pow(x, exponent)
