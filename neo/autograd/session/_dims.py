"""Reading vmap's in_dims and out_dims: one dim for each leaf of the arguments and of the output."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import torch

from neo import pytree
from neo.autograd.session._mirrors import describe
from neo.autograd.tensor import LiteTensor

__all__ = ["dims_of", "places_of"]

Dim = int | None


def dims_of(args: tuple, kwargs: dict[str, Any], in_dims: Any, name: str) -> tuple[list[Dim], int]:
    """The dim of each leaf of (args, kwargs), None counting as a leaf, from 0 on; and the size of the batch.

    Errors name the argument.
    """
    if isinstance(in_dims, list):
        in_dims = tuple(in_dims)
    if isinstance(in_dims, tuple) and len(in_dims) != len(args):
        by_keyword = f" Those given by keyword, {', '.join(kwargs)}, have none." if kwargs else ""
        raise ValueError(
            f"{name}: in_dims has {len(in_dims)} entries, expected {len(args)}, one per positional argument."
            f"{by_keyword}"
        )
    per_argument = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(args)
    dims: list[Dim] = []
    sizes: dict[int, str] = {}

    def add(leaf: Any, dim: Any, where: Callable[[], str]) -> None:
        place = _checked(leaf, dim, where, name)
        dims.append(place)
        if place is not None and leaf.shape[place] not in sizes:
            sizes[leaf.shape[place]] = f"{where()} along dim {dim}"

    for position, (arg, given) in enumerate(zip(args, per_argument, strict=True)):
        try:
            spread = optree.broadcast_prefix(given, arg, none_is_leaf=True, namespace=pytree.NAMESPACE)
        except ValueError as error:
            raise ValueError(
                f"{name}: in_dims[{position}] = {given!r} does not fit argument {position}: {error}"
            ) from None
        for (leaf, where), dim in zip(_leaves(arg, f"argument {position}"), spread, strict=True):
            add(leaf, dim, where)
    for key in sorted(kwargs):  # the order of optree's leaves
        for leaf, where in _leaves(kwargs[key], f"keyword argument {key!r}"):
            add(leaf, _keyword_dim(leaf, where, name), where)
    if len(sizes) > 1:
        listed = ", ".join(f"{size} in {where}" for size, where in sizes.items())
        raise ValueError(f"{name}: every sliced dim must have one size, the batch's, got {listed}")
    if not sizes:
        raise ValueError(f"{name}: nothing to map over: in_dims {in_dims!r} slices no argument")
    return dims, next(iter(sizes))


def _leaves(tree: Any, where: str) -> list[tuple[Any, Callable[[], str]]]:
    """Each leaf, and what gives its name, which few are asked for."""
    leaves, spec = pytree.flatten(tree, none_is_leaf=True)

    def name(i: int) -> str:
        return where + _key(spec, i)

    return [(leaf, functools.partial(name, i)) for i, leaf in enumerate(leaves)]


def _keyword_dim(leaf: Any, where: Callable[[], str], name: str) -> Dim:
    """0 for a tensor, as jax.vmap has it; None for numbers, strings and the like, which have no dim."""
    array = isinstance(leaf, np.ndarray) and leaf.ndim > 0
    if array or (isinstance(leaf, LiteTensor | torch.Tensor) and leaf.ndim == 0):
        raise ValueError(
            f"{name}: {where()} is {describe(leaf)}; tensors given by keyword are sliced along dim 0. Close over one "
            f"that is the same for every example, or pass it by position with None in in_dims; make arrays LiteTensors."
        )
    return 0 if isinstance(leaf, LiteTensor | torch.Tensor) else None


def _checked(leaf: Any, dim: Any, where: Callable[[], str], name: str) -> Dim:
    if dim is None:
        return None
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise ValueError(f"{name}: in_dims of {where()} must be an int or None, got {dim!r}")
    if leaf is None:
        return None  # an empty tree, as None is to the other transforms and in fn's output
    if not isinstance(leaf, LiteTensor | torch.Tensor):
        raise ValueError(
            f"{name}: {where()} is {describe(leaf)}, which has no dim {dim} to slice. Give None for it in in_dims, or "
            f"make it a tensor; a container that optree does not know must be a dataclass, or registered with it."
        )
    if not -leaf.ndim <= dim < leaf.ndim:
        raise ValueError(f"{name}: {where()} has shape {tuple(leaf.shape)}, and no dim {dim} to slice")
    return dim % leaf.ndim


def places_of(out_dims: Any, spec: Any, outputs: list[Any], name: str) -> list[Dim]:
    """Where the batch goes in each leaf of the output, None for nowhere; outputs are those of one example."""
    try:
        spread = optree.broadcast_prefix(
            out_dims, pytree.unflatten(spec, outputs), none_is_leaf=True, namespace=pytree.NAMESPACE
        )
    except ValueError:
        spread = []
    if len(spread) != len(outputs) or not all(
        dim is None or (isinstance(dim, int) and not isinstance(dim, bool)) for dim in spread
    ):
        raise ValueError(
            f"{name}: out_dims must be an int or None, or a pytree of those that is a prefix of the output {spec}, got "
            f"{out_dims!r}"
        )
    places: list[Dim] = []
    for i, (dim, out) in enumerate(zip(spread, outputs, strict=True)):
        if out is None or dim is None:
            places.append(None)
            continue
        if not isinstance(out, LiteTensor | torch.Tensor):
            raise TypeError(
                f"{name}: fn's output{_key(spec, i)} must be a LiteTensor or a torch.Tensor, got {describe(out)}. What "
                f"is the same for every example has None in out_dims."
            )
        if not -out.ndim - 1 <= dim <= out.ndim:
            raise ValueError(
                f"{name}: output{_key(spec, i)} has shape {tuple(out.shape)} for each example, and no place {dim} for "
                f"the batch"
            )
        places.append(dim % (out.ndim + 1))
    return places


def _key(spec: Any, i: int) -> str:
    """Where a leaf is in the output, as it is written."""
    return "".join(f"[{key!r}]" for key in spec.paths()[i])
