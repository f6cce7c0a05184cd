"""What functions of single entries have in common, and the elementary ones: exponentials, roots, circular functions.

ȳ is the cotangent of the output y, x̄ the gradient of the input x.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch

from neo.autograd._taylor import orders_taken
from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.functions._tangents import total
from neo.functions.registry import implements
from neo.kernels import direct


def is_number(value: Any) -> bool:
    kind = type(value)
    if kind is float or kind is int:
        return True
    if kind is LiteTensor or kind is torch.Tensor:  # an abstract class takes long to say no
        return False
    return isinstance(value, numbers.Number | np.number | np.bool_)


def is_exactly(value: Any, number: float) -> bool:
    """Is `value` this plain number? A tensor never is, for its gradient would be lost in a shortcut."""
    return is_number(value) and value == number


class Binary(Policy):
    """A function of tensors that broadcast against each other, entry by entry.

    `partials` is its rule in either direction: it takes a seed for each tensor input, or None, and gives the partial
    derivative by that input times the seed, None for None.
    """

    broadcasts = True
    verified = True

    def partials(self, *seeds: Any) -> tuple[Any, ...]:
        raise NotImplementedError(f"{type(self).__name__} has no partial derivatives")

    def backward(self, z_bar):
        return self.partials(*[z_bar if need else None for need in self.ctx.needs_grad])

    def jvp(self, *dots):
        return total(*self.partials(*dots))


class Unary(Policy):
    """A function of one tensor, entry by entry: its Jacobian is diagonal, so that its jvp is its backward."""

    verified = True

    def jvp(self, x_dot):
        return self.backward(x_dot)


# --- exponentials and logarithms -----------------------------------------------------------------------------


@implements(torch.exp)
class Exp(Unary):
    """y = eˣ;  x̄ = ȳ y."""

    def forward(self, x):
        y = direct.exp(x)
        self.ctx.save(y)
        return y

    def backward(self, y_bar):
        (y,) = self.ctx.release
        return direct.mul(y_bar, y)


@implements(torch.log)
class Log(Unary):
    """y = log x;  x̄ = ȳ / x."""

    def forward(self, x):
        self.ctx.save(x)
        return direct.log(x)

    def backward(self, y_bar):
        (x,) = self.ctx.release
        return direct.div(y_bar, x)


@implements(torch.log1p)
class Log1p(Unary):
    """y = log(1 + x);  x̄ = ȳ / (1 + x)."""

    def forward(self, x):
        self.ctx.save(x)
        return torch.log1p(x)

    def backward(self, y_bar):
        (x,) = self.ctx.release
        return y_bar / (x + 1)


@implements(torch.expm1)
class Expm1(Unary):
    """y = eˣ − 1;  x̄ = ȳ (y + 1)."""

    def forward(self, x):
        y = torch.expm1(x)
        self.ctx.save(y)
        return y

    def backward(self, y_bar):
        (y,) = self.ctx.release
        return y_bar * (y + 1)


# --- roots ---------------------------------------------------------------------------------------------------


@implements(torch.sqrt)
class Sqrt(Unary):
    """y = √x;  x̄ = ȳ / (2 y)."""

    def forward(self, x):
        y = torch.sqrt(x)
        self.ctx.save(y)
        return y

    def backward(self, y_bar):
        (y,) = self.ctx.release
        return direct.div(y_bar, direct.mul(y, 2))


@implements(torch.rsqrt)
class Rsqrt(Unary):
    """y = x^(−1/2);  x̄ = −ȳ y³ / 2."""

    def forward(self, x):
        y = torch.rsqrt(x)
        self.ctx.save(y)
        return y

    def backward(self, y_bar):
        (y,) = self.ctx.release
        return y_bar * y**3 * -0.5


@implements(torch.reciprocal)
class Reciprocal(Unary):
    """y = 1 / x;  x̄ = −ȳ y²."""

    def forward(self, x):
        y = torch.reciprocal(x)
        self.ctx.save(y)
        return y

    def backward(self, y_bar):
        (y,) = self.ctx.release
        return -y_bar * y * y


@implements(torch.square)
class Square(Unary):
    """y = x²;  x̄ = 2 ȳ x."""

    def forward(self, x):
        self.ctx.save(x)
        return torch.square(x)

    def backward(self, y_bar):
        (x,) = self.ctx.release
        return direct.mul(direct.mul(y_bar, x), 2)


# --- circular and hyperbolic functions -----------------------------------------------------------------------


class Sin(Unary):
    """y = sin x;  x̄ = ȳ cos x."""

    def forward(self, x):
        self.ctx.save(x)
        return direct.sin(x)

    def backward(self, y_bar):
        (x,) = self.ctx.release
        return direct.mul(y_bar, direct.cos(x))


class Cos(Unary):
    """y = cos x;  x̄ = −ȳ sin x."""

    def forward(self, x):
        self.ctx.save(x)
        return direct.cos(x)

    def backward(self, y_bar):
        (x,) = self.ctx.release
        return direct.neg(direct.mul(y_bar, direct.sin(x)))


class SinCos(Policy):
    """(s, c) = (sin x, cos x);  x̄ = s̄ c − c̄ s;  ṡ = ẋ c, ċ = −ẋ s.

    For a function that is differentiated more than once: its derivatives of every order are made of these two, which
    Sin and Cos compute anew at each.
    """

    verified = True
    materialize = False

    def forward(self, x):
        s, c = direct.sin(x), direct.cos(x)
        self.ctx.save(s, c)
        return s, c

    def backward(self, s_bar, c_bar):
        s, c = self.ctx.release
        return total(
            None if s_bar is None else direct.mul(s_bar, c),
            None if c_bar is None else direct.neg(direct.mul(c_bar, s)),
        )

    def jvp(self, x_dot):
        s, c = self.ctx.release
        return direct.mul(x_dot, c), direct.neg(direct.mul(x_dot, s))


_sin, _cos, _sin_cos = function(Sin, "sin"), function(Cos, "cos"), function(SinCos, "sin_cos")


@implements(torch.sin)
def sin(x):
    return _sin_cos(x)[0] if orders_taken(x) > 1 else _sin(x)


@implements(torch.cos)
def cos(x):
    return _sin_cos(x)[1] if orders_taken(x) > 1 else _cos(x)


@implements(torch.tanh)
class Tanh(Unary):
    """y = tanh x;  x̄ = ȳ (1 − y²)."""

    def forward(self, x):
        y = direct.tanh(x)
        self.ctx.save(y)
        return y

    def backward(self, y_bar):
        (y,) = self.ctx.release
        return direct.tanh_gradient(y_bar, y)


# --- size and sign -------------------------------------------------------------------------------------------


@implements(torch.abs, torch.absolute)
class Abs(Unary):
    """y = |x|;  x̄ = ȳ sign x, which is 0 at 0."""

    def forward(self, x):
        self.ctx.save(x)
        return torch.abs(x)

    def backward(self, y_bar):
        (x,) = self.ctx.release
        return y_bar * torch.sign(x)
