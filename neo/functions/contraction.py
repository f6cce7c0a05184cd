"""Sums of products over named or numbered indices."""

from __future__ import annotations

import math
import string
from typing import Any

import torch

from neo.autograd._queries import autocast_enabled
from neo.autograd.policy import Policy, function
from neo.functions._tangents import total
from neo.functions.linalg import product
from neo.functions.registry import implements


@implements(torch.tensordot)
def tensordot(x, other, dims=2):
    """Σ over the given dims of both: a number n (the last n with the first n), or two lists of dims."""
    if isinstance(dims, int):
        left, right = list(range(x.ndim - dims, x.ndim)), list(range(dims))
    else:
        left, right = (
            [d % t.ndim for d in (ds if isinstance(ds, list | tuple) else [ds])]
            for t, ds in zip((x, other), dims, strict=True)
        )
    for d, e in zip(left, right, strict=True):  # torch takes a size of 1 for a broadcast one
        if x.shape[d] != other.shape[e] and 1 in (x.shape[d], other.shape[e]):
            x = x.sum(d, True)
            other = other.sum(e, True)
    rest_left = [d for d in range(x.ndim) if d not in left]
    rest_right = [d for d in range(other.ndim) if d not in right]
    shape = [x.shape[d] for d in rest_left] + [other.shape[d] for d in rest_right]
    inside = math.prod([x.shape[d] for d in left])
    a = x.permute((*rest_left, *left)).reshape((math.prod([x.shape[d] for d in rest_left]), inside))
    b = other.permute((*right, *rest_right)).reshape(
        (inside, math.prod([other.shape[d] for d in rest_right]))
    )
    return product(a, b).reshape(tuple(shape))


class Einsum(Policy):
    """y = Σ Π xᵢ by an equation without "..." or repeated letters in an operand;  x̄ᵢ = the same sum with ȳ in the place
    of xᵢ, repeated along letters that only xᵢ has."""

    verified = True

    def forward(self, inputs, output, *operands):
        self.ctx.save(inputs, output, *operands)
        return torch.einsum(f"{','.join(inputs)}->{output}", *operands)

    def backward(self, y_bar):
        inputs, output, *operands = self.ctx.release
        gradients: list[Any] = []
        for i, need in enumerate(self.ctx.needs_grad):
            if not need:
                gradients.append(None)
                continue
            others = [(inputs[j], operands[j]) for j in range(len(operands)) if j != i]
            known = set(output).union(*(letters for letters, _ in others))
            kept = "".join(letter for letter in inputs[i] if letter in known)
            x_bar = _einsum(
                (output, *(letters for letters, _ in others)), kept, y_bar, *(x for _, x in others)
            )
            if kept != inputs[i]:
                shape = tuple(operands[i].shape)
                ones = tuple(n if letter in known else 1 for letter, n in zip(inputs[i], shape, strict=True))
                x_bar = x_bar.reshape(ones).expand(shape)
            gradients.append(x_bar)
        return tuple(gradients)

    def jvp(self, *x_dots):
        inputs, output, *operands = self.ctx.release
        return total(
            *[
                _einsum(inputs, output, *operands[:i], x_dot, *operands[i + 1 :])
                for i, x_dot in enumerate(x_dots)
                if x_dot is not None
            ]
        )


_einsum = function(Einsum, "einsum")


def _in_letters(equation, operands):
    """(letters of each operand, letters of the output, operands): the dims that "..." stands for under letters too,
    sizes of 1 among them that broadcast summed away."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands):
        raise RuntimeError(f"einsum: {equation!r} names {len(inputs)} operands, got {len(operands)}")
    free = [c for c in string.ascii_letters if c not in equation]
    counts = [
        x.ndim - len(letters) + 3 if "..." in letters else 0
        for letters, x in zip(inputs, operands, strict=True)
    ]
    dots = free[: max(counts)]
    if not arrow:
        once = sorted(c for c in set(left) - set(",.") if left.count(c) == 1)
        output = ("..." if "..." in left else "") + "".join(once)
    spelled, plain = [], []
    for letters, x, count in zip(inputs, operands, counts, strict=True):
        letters = letters.replace("...", "".join(dots[len(dots) - count :]))
        spelled.append(letters)
        plain.append(x)
    sizes = dict.fromkeys(dots, 1)
    for letters, x in zip(spelled, plain, strict=True):
        for c, size in zip(letters, x.shape, strict=False):
            if c in sizes and size != 1:
                sizes[c] = size
    for i, (letters, x) in enumerate(zip(spelled, plain, strict=True)):
        alone = [d for d, c in enumerate(letters) if c in sizes and x.shape[d] == 1 != sizes[c]]
        if alone:
            plain[i] = x.sum(alone)
            spelled[i] = "".join(c for d, c in enumerate(letters) if d not in alone)
    return tuple(spelled), output.replace("...", "".join(dots)), tuple(plain)


def _once(letters, x):
    """A letter twice in one operand is a diagonal: the operand's letters and the operand with each letter once."""
    while len(set(letters)) != len(letters):
        repeated = next(c for c in letters if letters.count(c) > 1)
        first, second = letters.index(repeated), letters.rindex(repeated)
        x = torch.diagonal(x, 0, first, second)
        letters = letters[:first] + letters[first + 1 : second] + letters[second + 1 :] + repeated
    return letters, x


@implements(torch.einsum)
def einsum(equation, *operands):
    """Einstein's sum, as in einsum("ij,jk->ik", a, b) or einsum("...ij,...jk->...ik", a, b).

    "..." stands for dims that broadcast; a letter twice in one operand for its diagonal.
    """
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    inputs, output, operands = _in_letters(equation, operands)
    inputs, operands = zip(*map(_once, inputs, operands), strict=True)
    sizes: dict[str, int] = {}
    for letters, x in zip(inputs, operands, strict=True):
        if len(letters) != x.ndim:
            raise RuntimeError(
                f"einsum: {letters!r} names {len(letters)} dims, its operand has shape {tuple(x.shape)}"
            )
        for letter, size in zip(letters, x.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                kind = (
                    NotImplementedError if 1 in (sizes[letter], size) else RuntimeError
                )  # torch broadcasts the 1
                raise kind(
                    f"einsum: {letter!r} is {sizes[letter]} in one operand and {size} in another; expand first"
                )
    if (
        autocast_enabled() and len(operands) > 2
    ):  # pair by pair, each in the dtype that autocast gives it, as in torch
        rest = inputs[2:]
        kept = "".join(
            c for c in dict.fromkeys(inputs[0] + inputs[1]) if c in output or any(c in r for r in rest)
        )
        pair = torch.einsum(f"{inputs[0]},{inputs[1]}->{kept}", *operands[:2])
        return torch.einsum(f"{','.join((kept, *rest))}->{output}", pair, *operands[2:])
    return _einsum(inputs, output, *operands)
