"""What must mirror something else: a cotangent the output, a tangent the arguments. Errors say where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import optree
import torch

from neo import pytree
from neo.autograd._identity import differentiable
from neo.autograd.tensor import LiteTensor

__all__ = ["cotangents", "describe", "expect_tuples", "plain", "tangents", "tangents_or_zero"]

TENSORS = (LiteTensor, torch.Tensor)


def cotangents(name: str, outputs: list[LiteTensor], spec: optree.PyTreeSpec, cotangent: Any) -> list[Any]:
    """A cotangent for each output, from a tree in the structure `spec` of them.

    Raises: ValueError for another structure, shape or dtype.
    """
    try:
        given = _parts(spec, cotangent)
    except ValueError as error:
        count = len(pytree.leaves(cotangent))
        counted = (
            f"has {count} leaves, expected {len(outputs)}, one for each tensor of the output, and"
            if count != len(outputs)
            else "is of another structure than the output: it"
        )
        raise ValueError(f"{name}: the cotangent {counted} {error}") from None
    result = []
    for i, (value, output) in enumerate(zip(given, outputs, strict=True)):
        if value is None:
            raise ValueError(
                f"{name}: the cotangent{_path(spec, i)} is None, expected a tensor of shape "
                f"{tuple(output.shape)}, {output.dtype}; give zeros where nothing is to be pulled back"
            )
        if not isinstance(value, TENSORS):
            value = LiteTensor(value, dtype=output.dtype, device=output.device)
        if value.shape != output.shape or value.dtype != output.dtype:
            raise ValueError(
                f"{name}: the cotangent{_path(spec, i)} has shape {tuple(value.shape)} and dtype {value.dtype}, "
                f"expected {tuple(output.shape)} and {output.dtype}, those of the output"
            )
        result.append(value.detach() if isinstance(value, torch.Tensor) else value)
    return result


def tangents(name: str, args: tuple, given: tuple, kind: str = "tangent") -> list[Any]:
    """A tangent for each floating-point LiteTensor in args, in order, from trees that mirror them, None for constants.

    Raises: ValueError naming the argument whose tangent is of another structure, shape, dtype or device.
    """
    dots: list[Any] = []
    for i, (arg, tree) in enumerate(zip(args, given, strict=True)):
        for leaf, dot, place in _beside(name, i, arg, tree, kind):
            if dot is None and isinstance(
                leaf, torch.Tensor
            ):  # in a Policy's rule: a constant of the caller's
                dot = torch.zeros_like(leaf)
            if dot is None:
                raise ValueError(
                    f"{name}: argument {i}{_path(*place)} needs a {kind} of shape {tuple(leaf.shape)}, got None"
                )
            dots.append(dot)
    return dots


def tangents_or_zero(name: str, i: int, arg: Any, tree: Any, kind: str) -> list[Any]:
    """A tangent for each floating-point LiteTensor in argument i, None where `tree` is None or has None: for zero.

    Raises: ValueError as `tangents` does.
    """
    if tree is None:
        return [None for leaf in pytree.leaves(arg) if differentiable(leaf)]
    return [dot for _, dot, _ in _beside(name, i, arg, tree, kind)]


def _beside(
    name: str, i: int, arg: Any, tree: Any, kind: str
) -> Iterator[tuple[Any, Any, tuple[optree.PyTreeSpec, int]]]:
    """Each floating-point leaf of argument i, what `tree` has there, checked, and its place, for _path."""
    leaves, spec = pytree.flatten(arg)
    try:
        parts = _parts(spec, tree)
    except ValueError as error:
        raise ValueError(f"{name}: the {kind} of argument {i} must mirror it: it {error}") from None
    for j, (leaf, dot) in enumerate(zip(leaves, parts, strict=True)):
        if not differentiable(leaf):
            if dot is not None:
                raise ValueError(
                    f"{name}: argument {i}{_path(spec, j)} is a constant ({describe(leaf)}), so that its {kind} "
                    f"must be None, got {describe(dot)}. Wrap floating-point data in neo.LiteTensor(...) to "
                    f"move it."
                )
            continue
        if dot is not None and not isinstance(dot, TENSORS):
            dot = LiteTensor(dot, dtype=leaf.dtype, device=leaf.device)
        if dot is not None and (
            dot.shape != leaf.shape or dot.dtype != leaf.dtype or dot.device != leaf.device
        ):
            raise ValueError(
                f"{name}: the {kind} of argument {i}{_path(spec, j)} is {describe(dot)} on {dot.device}, expected "
                f"shape {tuple(leaf.shape)}, {leaf.dtype}, on {leaf.device}, as the argument has"
            )
        yield leaf, dot.detach() if isinstance(dot, torch.Tensor) else dot, (spec, j)


def expect_tuples(name: str, args: Any, others: Any) -> None:
    if not (isinstance(args, tuple) and isinstance(others, tuple) and len(args) == len(others)):
        got = " and ".join(
            f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else describe(value)
            for value in (args, others)
        )
        raise TypeError(
            f"{name}: expected two tuples of the same length, one entry per argument of fn; got {got}. Of one "
            f"argument: {name}(fn, (x,), (v,))"
        )


def describe(value: Any) -> str:
    if isinstance(value, TENSORS):
        return f"{type(value).__name__} of {value.dtype}, shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of ({', '.join(describe(item) for item in value[:4])})"
    return type(value).__name__


def _parts(spec: optree.PyTreeSpec, tree: Any) -> list[Any]:
    """What stands in `tree` where `spec` has leaves. Raises: ValueError saying where the two part."""
    try:
        parts = spec.flatten_up_to(tree)
    except (ValueError, TypeError):
        raise ValueError(_difference(spec, tree)) from None
    for part in parts:
        if not (part is None or isinstance(part, TENSORS) or _numbers(part)):
            raise ValueError(_difference(spec, tree))
    return parts


def _numbers(value: Any) -> bool:
    """What a tensor can be made of: a number, an array, a nested list of numbers; not a container of tensors."""
    if isinstance(value, list | tuple):
        return all(_numbers(item) for item in value)
    return isinstance(value, np.ndarray | np.generic | int | float)


def _difference(spec: optree.PyTreeSpec, tree: Any) -> str:
    got = pytree.structure(tree)
    expected, found = ([a.codify("") for a in structure.accessors()] for structure in (spec, got))
    lacking = [path for path in expected if path not in found]
    surplus = [path for path in found if path not in expected]
    said = [f"lacks {', '.join(path or 'a tensor' for path in lacking)}"] if lacking else []
    said += (
        [f"has {', '.join(path or 'one tensor' for path in surplus)}, which is not expected"]
        if surplus
        else []
    )
    return f"{' and '.join(said) or 'has other containers'}; expected the structure {plain(spec)}, got {plain(got)}"


def plain(spec: optree.PyTreeSpec) -> str:
    """A structure as errors write it."""
    return (
        str(spec)
        .removeprefix("PyTreeSpec(")
        .removesuffix(")")
        .removesuffix(f", namespace={pytree.NAMESPACE!r}")
    )


def _path(spec: optree.PyTreeSpec, i: int) -> str:
    return spec.accessors()[i].codify("")
