"""Arithmetic: one op, one formula. z̄ is the cotangent of the output, x̄ and ȳ the gradients of the inputs.

Policies of two tensors broadcast: the tape sums and casts gradients back to each input. A Python number as
operand has a Policy of its own, which needs neither.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from neo.autograd import _tensor
from neo.autograd.policy import function
from neo.functions._kinks import without_slope
from neo.functions._tangents import total
from neo.functions.autocasting import kinds_of
from neo.functions.elementwise import Binary, Unary, is_exactly, is_number
from neo.functions.registry import implements
from neo.kernels import direct

# --- sum and difference --------------------------------------------------------------------------------------


class Add(Binary):
    """z = x + y;  x̄ = z̄, ȳ = z̄."""

    def forward(self, x, y):
        return direct.add(x, y)

    def backward(self, z_bar):
        return z_bar, z_bar

    def jvp(self, x_dot, y_dot):
        return total(x_dot, y_dot)


class AddNumber(Unary):
    """z = x + c;  x̄ = z̄."""

    def forward(self, x, c):
        return direct.add(x, c)

    def backward(self, z_bar):
        return z_bar


class AddScaled(Binary):
    """z = x + c y;  x̄ = z̄, ȳ = c z̄."""

    def forward(self, x, y, c):
        self.ctx.save(c)
        return torch.add(x, y, alpha=c)

    def backward(self, z_bar):
        (c,) = self.ctx.release
        _, need_y = self.ctx.needs_grad
        return z_bar, z_bar * c if need_y else None

    def jvp(self, x_dot, y_dot):
        (c,) = self.ctx.release
        return total(x_dot, None if y_dot is None else y_dot * c)


class Sub(Binary):
    """z = x − y;  x̄ = z̄, ȳ = −z̄."""

    def forward(self, x, y):
        return direct.sub(x, y)

    def backward(self, z_bar):
        _, need_y = self.ctx.needs_grad
        return z_bar, direct.neg(z_bar) if need_y else None

    def jvp(self, x_dot, y_dot):
        if y_dot is None:
            return x_dot
        return direct.neg(y_dot) if x_dot is None else direct.sub(x_dot, y_dot)


class NumberSub(Unary):
    """z = c − x;  x̄ = −z̄."""

    def forward(self, x, c):
        return torch.rsub(x, c)

    def backward(self, z_bar):
        return direct.neg(z_bar)


# --- product and quotient ------------------------------------------------------------------------------------


class Mul(Binary):
    """z = x y;  x̄ = z̄ y, ȳ = z̄ x."""

    def forward(self, x, y):
        self.ctx.save(x, y)
        return direct.mul(x, y)

    def backward(self, z_bar):
        x, y = self.ctx.release
        need_x, need_y = self.ctx.needs_grad
        return direct.mul(z_bar, y) if need_x else None, direct.mul(z_bar, x) if need_y else None

    def jvp(self, x_dot, y_dot):
        x, y = self.ctx.release
        return total(
            None if x_dot is None else direct.mul(x_dot, y), None if y_dot is None else direct.mul(x, y_dot)
        )


class MulNumber(Unary):
    """z = c x;  x̄ = c z̄."""

    def forward(self, x, c):
        self.ctx.save(c)
        return direct.mul(x, c)

    def backward(self, z_bar):
        (c,) = self.ctx.release
        return direct.mul(z_bar, c)


class Div(Binary):
    """z = x / y;  x̄ = z̄ / y, ȳ = −x̄ z;  ż = (ẋ − z ẏ) / y."""

    def forward(self, x, y):
        z = direct.div(x, y)
        self.ctx.save(y, z)
        return z

    def backward(self, z_bar):
        y, z = self.ctx.release
        need_x, need_y = self.ctx.needs_grad
        x_bar = direct.div(z_bar, y)  # which ȳ is made of too
        return x_bar if need_x else None, direct.neg(direct.mul(x_bar, z)) if need_y else None

    def jvp(self, x_dot, y_dot):
        y, z = self.ctx.release
        if y_dot is None:
            return direct.div(x_dot, y)
        shift = direct.mul(z, y_dot)
        return direct.div(direct.neg(shift) if x_dot is None else direct.sub(x_dot, shift), y)


class DivNumber(Unary):
    """z = x / c;  x̄ = z̄ / c."""

    def forward(self, x, c):
        self.ctx.save(c)
        return direct.div(x, c)

    def backward(self, z_bar):
        (c,) = self.ctx.release
        return direct.div(z_bar, c)


class NumberDiv(Unary):
    """z = c / x;  x̄ = −z̄ z / x."""

    def forward(self, x, c):
        z = c / x
        self.ctx.save(x, z)
        return z

    def backward(self, z_bar):
        x, z = self.ctx.release
        return -z_bar * z / x


@implements(torch.neg, torch.negative)
class Neg(Unary):
    """z = −x;  x̄ = −z̄."""

    def forward(self, x):
        return direct.neg(x)

    def backward(self, z_bar):
        return direct.neg(z_bar)


# --- powers --------------------------------------------------------------------------------------------------


class Pow(Binary):
    """z = x^y;  x̄ = z̄ y x^(y−1), 0 where y = 0;  ȳ = z̄ z log x, 0 where x = 0 and y ≥ 0 (as torch has it)."""

    def forward(self, x, y):
        self.ctx.save(x, y)
        return torch.pow(x, y)

    def partials(self, of_x, of_y):
        x, y = self.ctx.release
        if of_x is not None:
            constant = (y == 0) & (
                (x == 0) | torch.isnan(x)
            )  # elsewhere y says so itself, and has a derivative
            of_x = torch.where(constant, 0.0, of_x * y * _lower_power(x, y))
        return of_x, None if of_y is None else of_y * power_log(x, y, 1)


class LowerPower(Binary):
    """z = x^(y−1), as the slope of x^y has it;  the rule of Pow, but at x = 0 and y = 1 ȳ is −∞, not 0."""

    def forward(self, x, y):
        self.ctx.save(x, y)
        return torch.pow(x, y - 1)

    def partials(self, of_x, of_y):
        x, y = self.ctx.release
        if of_x is not None:
            constant = (y == 1) & ((x == 0) | torch.isnan(x))
            of_x = torch.where(constant, 0.0, of_x * (y - 1) * _lower_power(x, y - 1))
        if of_y is not None:
            steep = (x == 0) & (y == 1)
            wild = of_y * torch.log(torch.where(steep, x, 1.0))
            of_y = torch.where(steep, wild, of_y * power_log(x, y - 1, 1))
        return of_x, of_y


def _lower_power(x: Any, y: Any) -> Any:
    """x^(y−1) by the cheapest way: a rule of its own matters from the next order on."""
    lifted = not (isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor))
    return lower_power(x, y) if lifted else torch.pow(x, y - 1)


class PowerLog(Binary):
    """z = x^y logⁿ x, n ≥ 1, the n-th derivative of x^y by y; 0 where x = 0 and y ≥ 0 (at y = 0 as torch has it);
    x̄ = z̄ (y x^(y−1) logⁿ x + n x^(y−1) logⁿ⁻¹ x), ȳ = z̄ x^y logⁿ⁺¹ x.

    A rule of its own, for the 0 that is filled in at x = 0 has none of its derivatives: at y = 1 x̄ is −∞.
    """

    def forward(self, x, y, n):
        self.ctx.save(x, y, n)
        flat = (x == 0) & (y >= 0)
        logs = torch.log(torch.where(flat, 1.0, x))
        return torch.where(flat, 0.0, torch.pow(x, y) * logs**n)

    def partials(self, of_x, of_y):
        x, y, n = self.ctx.release
        if of_x is not None:
            lower = power_log(x, y - 1, n - 1) if n > 1 else _lower_power(x, y)
            steep = (x == 0) & (y <= 1)  # where no power of x tames the logarithm
            at = torch.where(steep, x, 1.0)
            wild = at ** (y - 1) * (torch.log(at) * y + n) * torch.log(at) ** (n - 1)
            of_x = of_x * torch.where(steep, wild, y * power_log(x, y - 1, n) + lower * n)
        return of_x, None if of_y is None else of_y * power_log(x, y, n + 1)


class PowNumber(Unary):
    """z = x^c;  x̄ = z̄ c x^(c−1), and 0 for c = 0."""

    def forward(self, x, c):
        self.ctx.save(x, c)
        return torch.pow(x, c)

    def backward(self, z_bar):
        x, c = self.ctx.release
        if c == 0:
            return torch.zeros_like(z_bar)
        if c == 1:
            return z_bar
        return z_bar * x * 2 if c == 2 else z_bar * (x ** (c - 1) * c)


class NumberPow(Unary):
    """z = c^x;  x̄ = z̄ z log c, and 0 for c = 0 where x ≥ 0."""

    def forward(self, x, c):
        z = torch.pow(c, x)
        self.ctx.save(x, z, c)
        return z

    def backward(self, z_bar):
        x, z, c = self.ctx.release
        if c == 0:
            return without_slope(torch.where(x >= 0, 0.0, z_bar * z * -torch.inf), x, x == 0)
        return z_bar * z * math.log(c) if c > 0 else z_bar * z * torch.nan


add_tensors, add_number = function(Add, "add"), function(AddNumber, "add")
add_scaled = function(AddScaled, "add")
sub_tensors, number_sub = function(Sub, "sub"), function(NumberSub, "sub")
mul_tensors, mul_number = function(Mul, "mul"), function(MulNumber, "mul")
div_tensors, div_number = function(Div, "div"), function(DivNumber, "div")
number_div = function(NumberDiv, "div")
pow_tensors, pow_number = function(Pow, "pow"), function(PowNumber, "pow")
number_pow = function(NumberPow, "pow")
power_log, lower_power = function(PowerLog, "pow"), function(LowerPower, "pow")


def operand(value: Any) -> Any:
    """What stands beside a tensor in an operator, as a torch tensor or a plain number; NotImplemented if neither."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, numbers.Number | np.number | np.bool_):
        plain = value.item() if isinstance(value, np.generic) else value
        return int(plain) if isinstance(plain, bool) else plain
    return NotImplemented


def sub_number(x, c):
    return add_number(x, -c)


@implements(torch.add, scalars=("alpha",))
def add(x, y, *, alpha=1):
    """x + α y, broadcast."""
    if not is_exactly(alpha, 1):
        if is_number(alpha) and not (is_number(x) or is_number(y)):
            return add_scaled(x, y, alpha)
        y = y * alpha
    if is_number(y):
        return add_number(x, y)
    return add_number(y, x) if is_number(x) else add_tensors(x, y)


@implements(torch.sub, torch.subtract, scalars=("alpha",))
def sub(x, y, *, alpha=1):
    """x − α y, broadcast."""
    if not is_exactly(alpha, 1):
        if is_number(alpha) and not (is_number(x) or is_number(y)):
            return add_scaled(x, y, -alpha)
        y = y * alpha
    if is_number(y):
        return add_number(x, -y)
    return number_sub(y, x) if is_number(x) else sub_tensors(x, y)


@implements(torch.rsub, scalars=("alpha",))
def rsub(x, y, *, alpha=1):
    """y − α x, broadcast."""
    return sub(y, x, alpha=alpha)


@implements(torch.mul, torch.multiply)
def mul(x, y):
    """x y, broadcast."""
    if is_number(y):
        return mul_number(x, y)
    return mul_number(y, x) if is_number(x) else mul_tensors(x, y)


@implements(torch.div, torch.divide, torch.true_divide)
def div(x, y, *, rounding_mode=None):
    """x / y, broadcast; rounding_mode "floor" or "trunc" rounds the quotient, whose gradient is then zero."""
    if rounding_mode is not None:
        quotient = div(x, y)
        return torch.floor(quotient) if rounding_mode == "floor" else torch.trunc(quotient)
    if is_number(y):
        return div_number(x, y)
    return number_div(y, x) if is_number(x) else div_tensors(x, y)


@implements(torch.pow)
def pow(x, exponent):
    """x^exponent, broadcast."""
    if is_number(exponent):
        return pow_number(x, exponent)
    return number_pow(exponent, x) if is_number(x) else pow_tensors(x, exponent)


# Operators know their operands, and so go straight to the rule.
_RULES: dict[str, Callable[..., Any]] = {
    "operand": operand,
    "add": add_tensors,
    "add_number": add_number,
    "sub": sub_tensors,
    "sub_number": sub_number,
    "number_sub": number_sub,
    "mul": mul_tensors,
    "mul_number": mul_number,
    "div": div_tensors,
    "div_number": div_number,
    "number_div": number_div,
    "pow": pow_tensors,
    "pow_number": pow_number,
    "number_pow": number_pow,
}
for _name, _rule in _RULES.items():
    _tensor.register_operator(_name, _rule)
for _function in (pow_tensors, pow_number, number_pow):
    _function.autocast = kinds_of(["pow"])
number_div.autocast = kinds_of(["reciprocal"])  # number / x is number * reciprocal(x) in torch
