"""Putting tensors together and taking them apart."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from neo.autograd.policy import Policy, function
from neo.autograd.tensor import LiteTensor
from neo.errors import NumberError
from neo.functions._arguments import wrap_dim
from neo.functions.registry import implements


class Cat(Policy):
    """y = x₁, x₂, ... one after the other along dim;  x̄ᵢ = the part of ȳ that xᵢ became."""

    broadcasts = True  # a mixture of dtypes is promoted
    verified = True

    def forward(self, tensors, dim=0):
        y = torch.cat(tensors, dim)
        shapes = [tuple(x.shape) for x in tensors]
        self.ctx.save(shapes, wrap_dim(dim, y.ndim))
        return y

    def backward(self, y_bar):
        shapes, dim = self.ctx.release
        gradients: list[Any] = []
        start = 0
        for shape, need in zip(shapes, self.ctx.needs_grad, strict=True):
            if shape == (0,) and y_bar.ndim != 1:  # torch skips empty vectors among tensors of more dims
                gradients.append(None)
                continue
            gradients.append(y_bar.narrow(dim, start, shape[dim]) if need else None)
            start += shape[dim]
        return tuple(gradients)

    def jvp(self, *x_dots):
        shapes, dim = self.ctx.release
        one = next(x_dot for x_dot in x_dots if x_dot is not None)
        return torch.cat(
            [
                one.new_zeros(shape) if x_dot is None else x_dot
                for x_dot, shape in zip(x_dots, shapes, strict=True)
            ],
            dim,
        )


class Stack(Policy):
    """y = x₁, x₂, ... along a new dim;  x̄ᵢ = ȳ[i] of that dim."""

    broadcasts = True  # a mixture of dtypes is promoted
    verified = True

    def forward(self, tensors, dim=0):
        self.ctx.save(dim)
        return torch.stack(tensors, dim)

    def backward(self, y_bar):
        (dim,) = self.ctx.release
        parts = torch.unbind(y_bar, dim)
        return tuple(part if need else None for part, need in zip(parts, self.ctx.needs_grad, strict=True))

    def jvp(self, *x_dots):
        (dim,) = self.ctx.release
        nothing = torch.zeros_like(next(x_dot for x_dot in x_dots if x_dot is not None))
        return torch.stack([nothing if x_dot is None else x_dot for x_dot in x_dots], dim)


class Split(Policy):
    """y₁, y₂, ... = x cut along dim into pieces of the given sizes;  x̄ = ȳ₁, ȳ₂, ... put together."""

    verified = True

    def forward(self, x, sizes, dim):
        self.ctx.save(sizes, dim)
        return torch.split(x, sizes, dim)

    def backward(self, *y_bars):
        _, dim = self.ctx.release
        return torch.cat(y_bars, dim)

    def jvp(self, x_dot):
        return pieces(x_dot, *self.ctx.release)


class Unbind(Policy):
    """y₁, y₂, ... = x[1], x[2], ... of dim;  x̄ = ȳ₁, ȳ₂, ... stacked."""

    verified = True

    def forward(self, x, dim=0):
        self.ctx.save(dim)
        return torch.unbind(x, dim)

    def backward(self, *y_bars):
        (dim,) = self.ctx.release
        return torch.stack(y_bars, dim)

    def jvp(self, x_dot):
        return unbound(x_dot, *self.ctx.release)


class Narrow(Policy):
    """y = x from start, length long, along dim;  x̄ = ȳ there, 0 elsewhere."""

    verified = True

    def forward(self, x, dim, start, length):
        first = start % max(x.shape[dim], 1) if start < 0 else start
        self.ctx.save(tuple(x.shape), dim, first, length)
        return torch.narrow(x, dim, start, length)

    def backward(self, y_bar):
        *place, _ = self.ctx.release
        return widened(y_bar, *place)

    def jvp(self, x_dot):
        _, *place = self.ctx.release
        return part(x_dot, *place)


class Widen(Policy):
    """x = y from start along dim of zeros of a shape;  ȳ = x̄ there."""

    verified = True

    def forward(self, y, shape, dim, start):
        self.ctx.save(shape, dim, start, y.shape[dim])
        x = y.new_zeros(shape)
        x.narrow(dim, start, y.shape[dim]).copy_(y)
        return x

    def backward(self, x_bar):
        _, *place = self.ctx.release
        return part(x_bar, *place)

    def jvp(self, y_dot):
        *place, _ = self.ctx.release
        return widened(y_dot, *place)


joined, stacked, pieces = function(Cat, "cat"), function(Stack, "stack"), function(Split, "split")
unbound, part, widened = function(Unbind, "unbind"), function(Narrow, "narrow"), function(Widen, "widen")


@implements(torch.narrow, tensors=("start",))
def narrow(x, dim, start, length):
    """x from start, length long, along dim."""
    if isinstance(start, LiteTensor) and not start.ndim and start.is_floating_point():
        raise NumberError(f"narrow: start must be a whole number, got a LiteTensor of {start.dtype}")
    tensor = isinstance(start, torch.Tensor | LiteTensor)
    if tensor and (start.ndim or start.is_floating_point() or start.dtype is torch.bool):
        raise RuntimeError("narrow: start must be an 0-dim integral Tensor.")
    return part(x, wrap_dim(dim, x.ndim), int(start), length)


@implements(torch.cat, torch.concat, torch.concatenate)
def cat(tensors, dim=0):
    """Tensors one after the other along dim."""
    return joined(tuple(tensors), dim)


@implements(torch.stack)
def stack(tensors, dim=0):
    """Tensors of one shape along a new dim."""
    return stacked(tuple(tensors), dim)


@implements(torch.column_stack)
def column_stack(tensors):
    """Matrices side by side along dim 1; vectors and numbers are columns."""
    return cat([x.reshape((-1, 1)) if x.ndim < 2 else x for x in tensors], 1)


@implements(torch.hstack)
def hstack(tensors):
    """Tensors side by side: along dim 1, vectors along their only one."""
    tensors = torch.atleast_1d(*tensors) if len(tensors) > 1 else (torch.atleast_1d(*tensors),)
    return cat(tensors, 0 if tensors[0].ndim == 1 else 1)


@implements(torch.vstack, torch.row_stack)
def vstack(tensors):
    """Tensors below each other, along dim 0; a vector is a row."""
    return cat(torch.atleast_2d(*tensors) if len(tensors) > 1 else (torch.atleast_2d(*tensors),), 0)


@implements(torch.unbind)
def unbind(x, dim=0):
    """The slices of x along dim."""
    if x.shape[wrap_dim(dim, x.ndim)] == 0:
        return ()
    return unbound(x, dim)


@implements(torch.split, torch.split_with_sizes)
def split(x, split_size, dim=0):
    """x cut along dim into pieces of one size, the last one smaller, or of a list of sizes."""
    dim = wrap_dim(dim, x.ndim)
    length = x.shape[dim]
    if isinstance(split_size, int):
        count = max(-(-length // split_size), 1) if split_size else 1
        split_size = [min(split_size, length - i * split_size) for i in range(count)]
    return pieces(x, list(split_size), dim)


@implements(torch.chunk)
def chunk(x, chunks, dim=0):
    """x cut along dim into at most `chunks` pieces of one size, the last one smaller."""
    length = x.shape[wrap_dim(dim, x.ndim)]
    return split(x, max(-(-length // chunks), 1), dim) if length else split(x, [0] * chunks, dim)


@implements(torch.tensor_split)
def tensor_split(x, indices_or_sections, dim=0):
    """x cut along dim into so many nearly equal pieces, or before each of the given places."""
    dim = wrap_dim(dim, x.ndim)
    length = x.shape[dim]
    given = indices_or_sections if isinstance(indices_or_sections, list | tuple) else [indices_or_sections]
    for value in given:
        if isinstance(value, torch.Tensor | LiteTensor) and value.is_floating_point():
            raise NumberError(
                f"tensor_split: indices_or_sections must be whole numbers, got a tensor of {value.dtype}"
            )
    if getattr(indices_or_sections, "ndim", None) == 0:
        indices_or_sections = int(indices_or_sections)
    if isinstance(indices_or_sections, int):
        each, more = divmod(length, indices_or_sections)
        return split(x, [each + (i < more) for i in range(indices_or_sections)], dim)
    edges = indices_or_sections.tolist() if hasattr(indices_or_sections, "tolist") else indices_or_sections
    bounds = [0, *(min(max(e if e >= 0 else e + length, 0), length) for e in edges), length]
    return tuple(part(x, dim, a, max(b - a, 0)) for a, b in itertools.pairwise(bounds))
