"""Choosing and cutting: where, clamp, extremes of two, rounding. At a tie between two tensors each gets half."""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd.policy import function
from neo.functions.elementwise import Binary, Unary, is_number
from neo.functions.registry import implements

# --- one or the other ----------------------------------------------------------------------------------------


class Where(Binary):
    """z = x where the condition holds, else y;  x̄ = z̄ where it holds, ȳ = z̄ where it does not."""

    def forward(self, condition, x, y):
        self.ctx.save(condition)
        return torch.where(condition, x, y)

    def backward(self, z_bar):
        (condition,) = self.ctx.release
        _, need_x, need_y = self.ctx.needs_grad
        x_bar = torch.where(condition, z_bar, 0.0) if need_x else None
        return None, x_bar, torch.where(condition, 0.0, z_bar) if need_y else None

    def jvp(self, _, *dots):
        (condition,) = self.ctx.release
        x_dot, y_dot = (0.0 if dot is None else dot for dot in dots)
        return torch.where(condition, x_dot, y_dot)


class WhereElseNumber(Where):
    """z = x where the condition holds, else c;  x̄ = z̄ where it holds."""

    def backward(self, z_bar):
        (condition,) = self.ctx.release
        return None, torch.where(condition, z_bar, 0.0)

    def jvp(self, _, *dots):
        (condition,) = self.ctx.release
        (x_dot,) = dots
        return torch.where(condition, x_dot, 0.0)


class WhereNumber(Where):
    """z = c where the condition holds, else y;  ȳ = z̄ where it does not."""

    def backward(self, z_bar):
        (condition,) = self.ctx.release
        return None, torch.where(condition, 0.0, z_bar)

    def jvp(self, _, *dots):
        (condition,) = self.ctx.release
        (y_dot,) = dots
        return torch.where(condition, 0.0, y_dot)


_where, _where_else_number = function(Where, "where"), function(WhereElseNumber, "where")
_where_number = function(WhereNumber, "where")


@implements(torch.where)
def where(condition, x=None, y=None):
    """x where the condition holds, else y: tensors or numbers, broadcast. where(condition) gives the places."""
    if x is None and y is None:
        return torch.nonzero(condition, as_tuple=True)
    if is_number(x):
        return _where_number(condition, x, y)
    return _where_else_number(condition, x, y) if is_number(y) else _where(condition, x, y)


@implements(torch.Tensor.where, only=True)
def where_method(x, condition, y):
    """x.where(condition, y)."""
    return where(condition, x, y)


@implements(torch.masked_fill)
def masked_fill(x, mask, value):
    """value, a number or 0-dim tensor, where the mask holds, else x."""
    if not is_number(value):
        if value.ndim:
            raise RuntimeError(
                f"masked_fill only supports a 0-dimensional value tensor, got shape {tuple(value.shape)}"
            )
        value = value if value.dtype is x.dtype else value.to(x.dtype)
    elif not (x.is_floating_point() or isinstance(value, int)):
        raise RuntimeError(f"masked_fill: value {value} does not fit a tensor of {x.dtype}")
    return where(mask, value, x)


# --- the larger and the smaller ------------------------------------------------------------------------------


class Extreme(Binary):
    """z = the extreme of x and y;  x̄ = z̄, 0 where y is it, ȳ likewise, and half of z̄ to each where they tie.
    Where either is NaN, both get z̄, as in torch."""

    pick: Any

    def forward(self, x, other):
        self.ctx.save(*self.masks(x, other))
        return self.pick(x, other)

    def partials(self, *seeds):
        tie, *loses = self.ctx.release
        return tuple(
            None if seed is None else torch.where(lost, 0.0, torch.where(tie, seed * 0.5, seed))
            for seed, lost in zip(seeds, loses, strict=True)
        )

    def masks(self, x, y):
        """Where they tie, where y is the extreme, where x is."""
        raise NotImplementedError


class Maximum(Extreme):
    """z = max(x, y);  x̄ = z̄ where x > y, ȳ = z̄ where y > x, half each where they tie."""

    pick = staticmethod(torch.maximum)

    def masks(self, x, y):
        return x == y, x < y, x > y


class Minimum(Extreme):
    """z = min(x, y);  x̄ = z̄ where x < y, ȳ = z̄ where y < x, half each where they tie."""

    pick = staticmethod(torch.minimum)

    def masks(self, x, y):
        return x == y, x > y, x < y


class NumberExtreme(Binary):
    """z = the extreme of x and y, or the one that is a number;  x̄ = z̄ where x is taken, ȳ = z̄ where y is."""

    pick: Any
    takes: Any  # x rather than y, of two numbers

    def forward(self, x, other):
        self.ctx.save(self.takes(x, other) | torch.isnan(other))
        return self.pick(x, other)

    def partials(self, of_x, of_y):
        (taken,) = self.ctx.release
        of_x = None if of_x is None else torch.where(taken, of_x, 0.0)
        return of_x, None if of_y is None else torch.where(taken, 0.0, of_y)


class Fmax(NumberExtreme):
    """z = max(x, y), or the one that is a number;  x̄ = z̄ where x is taken, ȳ = z̄ where y is. Ties: x."""

    pick = staticmethod(torch.fmax)
    takes = staticmethod(torch.ge)


class Fmin(NumberExtreme):
    """z = min(x, y), or the one that is a number;  x̄ = z̄ where x is taken, ȳ = z̄ where y is. Ties: x."""

    pick = staticmethod(torch.fmin)
    takes = staticmethod(torch.le)


maximum, minimum = function(Maximum, "maximum"), function(Minimum, "minimum")
implements(torch.maximum)(Maximum)
implements(torch.minimum)(Minimum)
implements(torch.fmax)(Fmax)
implements(torch.fmin)(Fmin)


# --- within bounds -------------------------------------------------------------------------------------------


class Clamp(Unary):
    """y = x brought into [low, high], numbers or None;  x̄ = ȳ where low ≤ x ≤ high, else 0."""

    def forward(self, x, low, high):
        self.ctx.save(inside(x, low, high))
        return torch.clamp(x, low, high)

    def backward(self, y_bar):
        (kept,) = self.ctx.release
        return torch.where(kept, y_bar, 0.0)


def inside(x, low, high):
    if low is None:
        return x <= high
    return x >= low if high is None else (x >= low) & (x <= high)


class ClampBetween(Binary):
    """y = min(max(x, l), h) for tensors;  x̄ = ȳ where l ≤ x ≤ h, l̄ = ȳ where x < l < h, h̄ = ȳ where x > h or l ≥ h."""

    def forward(self, x, low, high):
        self.ctx.save(
            (x >= low) & (x <= high), (x < low) & (low < high), (x > high) | (low >= high) & (x < low)
        )
        return torch.clamp(x, low, high)

    def partials(self, *seeds):
        return tuple(
            None if seed is None else torch.where(mine, seed, 0.0)
            for mine, seed in zip(self.ctx.release, seeds, strict=True)
        )


class ClampAbove(Binary):
    """y = max(x, l);  x̄ = ȳ where x ≥ l, l̄ = ȳ where x < l. Ties: x."""

    def forward(self, x, low):
        self.ctx.save(x >= low, x < low)
        return torch.clamp(x, min=low)

    partials = ClampBetween.partials


class ClampBelow(Binary):
    """y = min(x, h);  x̄ = ȳ where x ≤ h, h̄ = ȳ where x > h. Ties: x."""

    def forward(self, x, high):
        self.ctx.save(x <= high, x > high)
        return torch.clamp(x, max=high)

    partials = ClampBetween.partials


_clamp, _clamp_between = function(Clamp, "clamp"), function(ClampBetween, "clamp")
_clamp_above, _clamp_below = function(ClampAbove, "clamp"), function(ClampBelow, "clamp")


@implements(torch.clamp, torch.clip)
def clamp(x, min=None, max=None):
    """x brought into [min, max]: numbers, tensors, or None. The gradient passes where x is within, ends included."""
    if min is None and max is None:
        raise RuntimeError("clamp: at least one of 'min' or 'max' must not be None")
    if (min is None or is_number(min)) and (max is None or is_number(max)):
        return _clamp(x, min, max)
    if max is None:
        return _clamp_above(x, min)
    if min is None:
        return _clamp_below(x, max)
    return _clamp_between(x, as_tensor(min, x), as_tensor(max, x))


def as_tensor(value, like):
    """A number as a 0-dim tensor beside `like`; a tensor as it is."""
    return torch.tensor(value, dtype=like.dtype, device=like.device) if is_number(value) else value


@implements(torch.clamp_min)
def clamp_min(x, min):
    return clamp(x, min=min)


@implements(torch.clamp_max)
def clamp_max(x, max):
    return clamp(x, max=max)


@implements(torch.nan_to_num)
class NanToNum(Unary):
    """y = x with numbers for nan and ±inf;  x̄ = ȳ where x was finite, else 0."""

    def forward(self, x, nan=0.0, posinf=None, neginf=None):
        self.ctx.save(torch.isfinite(x))
        return torch.nan_to_num(x, nan, posinf, neginf)

    def backward(self, y_bar):
        (finite,) = self.ctx.release
        return torch.where(finite, y_bar, 0.0)


# --- steps ---------------------------------------------------------------------------------------------------


class Step(Unary):
    """A function that is flat wherever it has a derivative;  x̄ = 0."""

    def backward(self, y_bar):
        return torch.zeros_like(y_bar)

    def jvp(self, x_dot):
        return None


@implements(torch.sign)
class Sign(Step):
    """y = −1, 0 or 1;  x̄ = 0."""

    def forward(self, x):
        return torch.sign(x)


@implements(torch.sgn)
class Sgn(Step):
    """y = −1, 0 or 1;  x̄ = 0."""

    def forward(self, x):
        return torch.sgn(x)


@implements(torch.floor)
class Floor(Step):
    """y = ⌊x⌋;  x̄ = 0."""

    def forward(self, x):
        return torch.floor(x)


@implements(torch.ceil)
class Ceil(Step):
    """y = ⌈x⌉;  x̄ = 0."""

    def forward(self, x):
        return torch.ceil(x)


@implements(torch.round)
class Round(Step):
    """y = the integer nearest to x, an even one from halfway;  x̄ = 0."""

    def forward(self, x, decimals=0):
        return torch.round(x, decimals=decimals) if decimals else torch.round(x)


@implements(torch.trunc, torch.fix)
class Trunc(Step):
    """y = x without its fraction;  x̄ = 0."""

    def forward(self, x):
        return torch.trunc(x)


@implements(torch.heaviside)
class Heaviside(Binary):
    """z = 0 for x < 0, 1 for x > 0, v at 0;  x̄ = 0, v̄ = z̄ where x = 0."""

    def forward(self, x, values):
        self.ctx.save(x == 0)
        return torch.heaviside(x, values)

    def partials(self, of_x, of_values):
        (zero,) = self.ctx.release
        return None, None if of_values is None else torch.where(zero, of_values, 0.0)


@implements(torch.frac)
def frac(x):
    """The fraction of x, with its sign: x − trunc x."""
    return x - torch.trunc(x)


class FloorDivide(Binary):
    """z = ⌊x / y⌋;  x̄ = 0, ȳ = 0."""

    def forward(self, x, other):
        return torch.floor_divide(x, other)

    def partials(self, of_x, of_y):
        return None, None


implements(torch.floor_divide)(FloorDivide)


@implements(torch.positive)
def positive(x):
    """x itself."""
    return x
