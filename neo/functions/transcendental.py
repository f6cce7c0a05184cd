"""Functions of one number beyond the elementary ones. y = f(x), x̄ = ȳ f′(x)."""

from __future__ import annotations

import math
from typing import Any

import torch

from neo.autograd.policy import function
from neo.functions._kinks import without_slope
from neo.functions.elementwise import Binary, Unary, is_number
from neo.functions.registry import implements

LN2, LN10 = math.log(2), math.log(10)


class OfInput(Unary):
    """A rule that needs the input alone: `value(x)` and `slope(x)`."""

    value: Any
    slope: Any

    def forward(self, x):
        self.ctx.save(x)
        return self.value(x)

    def backward(self, y_bar):
        (x,) = self.ctx.release
        return y_bar * self.slope(x)


class OfOutput(Unary):
    """A rule that needs the output alone: `value(x)` and `slope(y)`."""

    value: Any
    slope: Any

    def forward(self, x):
        y = self.value(x)
        self.ctx.save(y)
        return y

    def backward(self, y_bar):
        (y,) = self.ctx.release
        return y_bar * self.slope(y)


# --- powers and logarithms of other bases --------------------------------------------------------------------


@implements(torch.exp2)
class Exp2(OfOutput):
    """y = 2ˣ;  x̄ = ȳ y log 2."""

    value = staticmethod(torch.exp2)

    def slope(self, y):
        return y * LN2


@implements(torch.log2)
class Log2(OfInput):
    """y = log₂ x;  x̄ = ȳ / (x log 2)."""

    value = staticmethod(torch.log2)

    def slope(self, x):
        return 1 / (x * LN2)


@implements(torch.log10)
class Log10(OfInput):
    """y = log₁₀ x;  x̄ = ȳ / (x log 10)."""

    value = staticmethod(torch.log10)

    def slope(self, x):
        return 1 / (x * LN10)


# --- circular functions --------------------------------------------------------------------------------------


@implements(torch.tan)
class Tan(OfOutput):
    """y = tan x;  x̄ = ȳ (1 + y²)."""

    value = staticmethod(torch.tan)

    def slope(self, y):
        return y * y + 1


@implements(torch.asin, torch.arcsin)
class Asin(OfInput):
    """y = asin x;  x̄ = ȳ / √(1 − x²)."""

    value = staticmethod(torch.asin)

    def slope(self, x):
        return torch.rsqrt(1 - x * x)


@implements(torch.acos, torch.arccos)
class Acos(OfInput):
    """y = acos x;  x̄ = −ȳ / √(1 − x²)."""

    value = staticmethod(torch.acos)

    def slope(self, x):
        return -torch.rsqrt(1 - x * x)


@implements(torch.atan, torch.arctan)
class Atan(OfInput):
    """y = atan x;  x̄ = ȳ / (1 + x²)."""

    value = staticmethod(torch.atan)

    def slope(self, x):
        return 1 / (x * x + 1)


@implements(torch.atan2, torch.arctan2)
class Atan2(Binary):
    """z = the angle of (x, y) for y = input, x = other;  ȳ = z̄ x / (x² + y²), x̄ = −z̄ y / (x² + y²), 0 at the origin."""

    def forward(self, y, other):
        self.ctx.save(y, other)
        return torch.atan2(y, other)

    def partials(self, of_y, of_x):
        y, x = self.ctx.release
        square = x * x + y * y
        origin = square == 0
        square = torch.where(origin, 1.0, square)
        if of_y is not None:
            of_y = without_slope(torch.where(origin, 0.0, of_y * x / square), y, origin)
        if of_x is not None:
            of_x = without_slope(torch.where(origin, 0.0, -of_x * y / square), x, origin)
        return of_y, of_x


@implements(torch.sinc)
class Sinc(OfInput):
    """y = sin πx / πx, 1 at 0;  x̄ = ȳ sinc′(x)."""

    value = staticmethod(torch.sinc)

    def slope(self, x):
        return sinc_derivative(x, 1)


class SincDerivative(Unary):
    """y = the n-th derivative of sinc at x;  x̄ = ȳ times the next one.

    In z = πx, f₀ = sin z / z: its Taylor series where |z| ≤ n + 1; beyond, z fₙ = sin(z + nπ/2) − n fₙ₋₁, which there
    loses no digits.
    """

    def forward(self, x, n):
        self.ctx.save(x, n)
        z = x * math.pi
        near = torch.abs(z) <= n + 1
        return (
            torch.where(near, self.series(torch.where(near, z, 0.0), n), self.recurrence(z, n)) * math.pi**n
        )

    @staticmethod
    def series(z, n):
        """Σ (−1)ᵏ z^(2k − n) / ((2k + 1) (2k − n)!) over 2k ≥ n, from the last term on."""
        first = (n + 1) // 2
        square, total = z * z, torch.zeros_like(z)
        for k in range(first + 14 + n, first - 1, -1):
            total = total * square + (-1) ** k / ((2 * k + 1) * math.factorial(2 * k - n))
        return total * z if n % 2 else total

    @staticmethod
    def recurrence(z, n):
        f = torch.sin(z) / z
        for k in range(1, n + 1):
            f = (torch.sin(z + k * math.pi / 2) - k * f) / z
        return f

    def backward(self, y_bar):
        x, n = self.ctx.release
        return y_bar * sinc_derivative(x, n + 1)


sinc_derivative = function(SincDerivative, "sinc_gradient")


# --- hyperbolic functions ------------------------------------------------------------------------------------


@implements(torch.sinh)
class Sinh(OfInput):
    """y = sinh x;  x̄ = ȳ cosh x."""

    value = staticmethod(torch.sinh)

    def slope(self, x):
        return torch.cosh(x)


@implements(torch.cosh)
class Cosh(OfInput):
    """y = cosh x;  x̄ = ȳ sinh x."""

    value = staticmethod(torch.cosh)

    def slope(self, x):
        return torch.sinh(x)


@implements(torch.asinh, torch.arcsinh)
class Asinh(OfInput):
    """y = asinh x;  x̄ = ȳ / √(x² + 1)."""

    value = staticmethod(torch.asinh)

    def slope(self, x):
        return torch.rsqrt(x * x + 1)


@implements(torch.acosh, torch.arccosh)
class Acosh(OfInput):
    """y = acosh x;  x̄ = ȳ / √(x² − 1)."""

    value = staticmethod(torch.acosh)

    def slope(self, x):
        return torch.rsqrt(x * x - 1)


@implements(torch.atanh, torch.arctanh)
class Atanh(OfInput):
    """y = atanh x;  x̄ = ȳ / (1 − x²)."""

    value = staticmethod(torch.atanh)

    def slope(self, x):
        return 1 / (1 - x * x)


# --- error functions and the logistic ------------------------------------------------------------------------


@implements(torch.erf)
class Erf(OfInput):
    """y = erf x;  x̄ = ȳ 2/√π e^(−x²)."""

    value = staticmethod(torch.erf)

    def slope(self, x):
        return torch.exp(-x * x) * (2 / math.sqrt(math.pi))


@implements(torch.erfc)
class Erfc(OfInput):
    """y = 1 − erf x;  x̄ = −ȳ 2/√π e^(−x²)."""

    value = staticmethod(torch.erfc)

    def slope(self, x):
        return torch.exp(-x * x) * (-2 / math.sqrt(math.pi))


@implements(torch.erfinv)
class Erfinv(OfOutput):
    """y = erf⁻¹ x;  x̄ = ȳ √π/2 e^(y²)."""

    value = staticmethod(torch.erfinv)

    def slope(self, y):
        return torch.exp(y * y) * (math.sqrt(math.pi) / 2)


@implements(torch.sigmoid, torch.special.expit)
class Sigmoid(OfOutput):
    """y = 1 / (1 + e⁻ˣ);  x̄ = ȳ y (1 − y)."""

    value = staticmethod(torch.sigmoid)

    def slope(self, y):
        return y * (1 - y)


class Logit(Unary):
    """y = log(x / (1 − x));  x̄ = ȳ / (x (1 − x)), and with eps 0 beyond [eps, 1 − eps] (nan beyond [0, 1] without)."""

    def forward(self, x, eps=None):
        self.ctx.save(x, eps)
        return torch.logit(x, eps)

    def backward(self, y_bar):
        x, eps = self.ctx.release
        low = 0.0 if eps is None else eps
        inside = (x >= low) & (x <= 1 - low)
        return torch.where(
            inside, y_bar / torch.where(inside, x * (1 - x), 1.0), torch.nan if eps is None else 0.0
        )


implements(torch.logit)(Logit)


# --- logarithms beside a factor ------------------------------------------------------------------------------


class XLogY(Binary):
    """z = x log y, 0 where x = 0 and y is a number;  x̄ = z̄ log y (0 where z is set to 0 and y ≤ 0), ȳ = z̄ x / y."""

    def forward(self, x, y):
        self.ctx.save(x, y)
        return torch.xlogy(x, y)

    def partials(self, of_x, of_y):
        x, y = self.ctx.release
        if of_x is not None:
            flat = (x == 0) & (y <= 0)
            of_x = of_x * torch.where(flat, 0.0, torch.log(torch.where(flat, 1.0, y)))
        return of_x, None if of_y is None else of_y * x / y


_xlogy = function(XLogY, "xlogy")


@implements(torch.xlogy)
def xlogy(x, other):
    """x log y, 0 where x = 0; tensors or numbers, broadcast."""
    if is_number(x):
        x = torch.full_like(other, x)
    return _xlogy(x, torch.full_like(x, other) if is_number(other) else other)


# --- degrees -------------------------------------------------------------------------------------------------


@implements(torch.deg2rad)
def deg2rad(x):
    """x π / 180."""
    return x * (math.pi / 180)


@implements(torch.rad2deg)
def rad2deg(x):
    """x 180 / π."""
    return x * (180 / math.pi)


class Lgamma(OfInput):
    """y = log |Γ(x)|;  x̄ = ȳ ψ(x)."""

    value = staticmethod(torch.lgamma)

    def slope(self, x):
        return torch.digamma(x)


class Digamma(OfInput):
    """y = ψ(x);  x̄ = ȳ ψ⁽¹⁾(x)."""

    value = staticmethod(torch.digamma)

    def slope(self, x):
        return polygamma(1, x)


class Polygamma(Unary):
    """y = ψ⁽ⁿ⁾(x);  x̄ = ȳ ψ⁽ⁿ⁺¹⁾(x)."""

    def forward(self, n, x):
        self.ctx.save(n, x)
        return torch.polygamma(n, x)

    def backward(self, y_bar):
        n, x = self.ctx.release
        return y_bar * polygamma(n + 1, x)


polygamma = function(Polygamma, "polygamma")
implements(torch.lgamma)(Lgamma)
implements(torch.digamma)(Digamma)
implements(torch.polygamma, only=True, name="polygamma")(Polygamma)
