"""Arithmetic of several steps: fused multiply-add, interpolation, remainders, distances."""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd.policy import function
from neo.functions.elementwise import Binary, is_exactly, is_number
from neo.functions.registry import implements


class AddCMul(Binary):
    """y = x + c a b;  x̄ = ȳ, ā = c ȳ b, b̄ = c ȳ a."""

    def forward(self, x, a, b, c=1):
        self.ctx.save(a, b, c)
        return torch.addcmul(x, a, b, value=c)

    def partials(self, of_x, of_a, of_b):
        a, b, c = self.ctx.release
        if c != 1:
            of_a, of_b = (None if seed is None else seed * c for seed in (of_a, of_b))
        return of_x, None if of_a is None else of_a * b, None if of_b is None else of_b * a


_addcmul = function(AddCMul, "addcmul")


@implements(torch.addcmul, scalars=("value",))
def addcmul(x, tensor1, tensor2, *, value=1):
    """x + value a b, broadcast."""
    if not is_number(value):
        return x + tensor1 * tensor2 * value
    return _addcmul(x, tensor1, tensor2, value)


@implements(torch.addcdiv, scalars=("value",))
def addcdiv(x, tensor1, tensor2, *, value=1):
    """x + value a / b, broadcast."""
    quotient = tensor1 / tensor2
    return x + (quotient if is_exactly(value, 1) else quotient * value)


@implements(torch.lerp)
def lerp(x, end, weight):
    """x + weight (end − x), exact at both ends."""
    return x + (end - x) * weight


@implements(torch.hypot)
def hypot(x, other):
    """√(x² + y²)."""
    return torch.sqrt(x * x + other * other)


class LogAddExp(Binary):
    """z = log(bˣ + bʸ) / log b, without overflow;  x̄ = z̄ / (1 + b^(y − x)), ȳ = z̄ / (1 + b^(x − y)); b = e."""

    value: Any = staticmethod(torch.logaddexp)
    power: Any = staticmethod(torch.exp)

    def forward(self, x, other):
        self.ctx.save(x, other)
        return self.value(x, other)

    def partials(self, of_x, of_y):
        x, y = self.ctx.release
        of_x = None if of_x is None else of_x / (self.power(y - x) + 1)
        return of_x, None if of_y is None else of_y / (self.power(x - y) + 1)


class LogAddExp2(LogAddExp):
    """z = log₂(2ˣ + 2ʸ);  the rule of LogAddExp with b = 2."""

    value = staticmethod(torch.logaddexp2)
    power = staticmethod(torch.exp2)


implements(torch.logaddexp)(LogAddExp)
implements(torch.logaddexp2)(LogAddExp2)


class Remainder(Binary):
    """z = x − y ⌊x / y⌋;  x̄ = z̄, ȳ = −z̄ ⌊x / y⌋."""

    def forward(self, x, y):
        self.ctx.save(x, y)
        return torch.remainder(x, y)

    def partials(self, of_x, of_y):
        x, y = self.ctx.release
        return of_x, None if of_y is None else -of_y * torch.floor(x / y)


_remainder = function(Remainder, "remainder")


@implements(torch.remainder)
def remainder(x, other):
    """x − y ⌊x / y⌋, with the sign of y; tensors or numbers, broadcast."""
    if is_number(x):
        x = torch.full_like(other, x)
    return _remainder(x, torch.tensor(other, dtype=x.dtype, device=x.device) if is_number(other) else other)


class Fmod(Binary):
    """z = x − y trunc(x / y);  x̄ = z̄, ȳ = −z̄ trunc(x / y)."""

    def forward(self, x, y):
        self.ctx.save(x, y)
        return torch.fmod(x, y)

    def partials(self, of_x, of_y):
        x, y = self.ctx.release
        return of_x, None if of_y is None else -of_y * torch.trunc(x / y)


_fmod = function(Fmod, "fmod")


@implements(torch.fmod)
def fmod(x, other):
    """x − y trunc(x / y), with the sign of x; a tensor by a tensor or number, broadcast."""
    return _fmod(x, torch.tensor(other, dtype=x.dtype, device=x.device) if is_number(other) else other)
