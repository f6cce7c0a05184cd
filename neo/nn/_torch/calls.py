"""One call of a copy's forward, as code written for torch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch

from neo import pytree
from neo.autograd._aliases import shallow_copy
from neo.autograd._queries import version
from neo.autograd.tensor import LiteTensor
from neo.autograd.torch_code import torch_code
from neo.errors import ConversionError
from neo.functions.in_place import run_again_lifted
from neo.functions.layouts import own_layouts
from neo.functions.lifting import Lifting, lifted
from neo.nn._torch.copies import Copy

__all__ = ["run_as_torch_code"]


_TENSORS = frozenset((torch.Tensor, LiteTensor))


def run_as_torch_code(
    copy: Copy,
    params: Mapping[str, Any],
    constants: Mapping[str, Any],
    args: tuple,
    kwargs: dict[str, Any],
    lifts: bool,
) -> Any:
    """copy.module(*args, **kwargs) on these tensors, where in-place work has torch's meaning.

    The caller's LiteTensors stay as they are. lifts: what is made in forward, and buffers, can hold what a session
    differentiates, see neo/functions/lifting.py.
    Raises ConversionError where forward writes into a torch.Tensor that it was given; NeedsLifting where lifts must be
    True. Where Neo chooses how images lie in memory (neo/nn/_torch/fusion.py), they are given back as torch has them.
    """
    own = _lift if lifts else _own
    copy.fill({name: shallow_copy(value) for name, value in params.items()})
    copy.fill({name: own(value) for name, value in constants.items()})
    mine: Any
    if not kwargs and _TENSORS.issuperset(map(type, args)):  # the commonest call, without a look for trees
        plain = [leaf for leaf in args if type(leaf) is torch.Tensor]
        mine = tuple(map(own, args)), kwargs
    else:
        plain = [leaf for leaf in pytree.leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        mine = pytree.tree_map(own, (args, kwargs))
    versions = [version(tensor) for tensor in plain]
    try:
        with (
            torch_code(),
            Lifting() if lifts else run_again_lifted(),
            own_layouts() if copy.own_layouts else contextlib.nullcontext(),
        ):
            out = copy.module(*mine[0], **mine[1])
        return _as_torch_lays_it(out, mine[0]) if copy.own_layouts else out
    finally:
        if [version(tensor) for tensor in plain] != versions:
            raise ConversionError(
                "forward writes into a torch.Tensor that it was given, so that a second call would see other numbers. "
                "Give the module x.clone(), or a LiteTensor, which forward changes for itself alone."
            )


def _as_torch_lays_it(out: Any, args: tuple[Any, ...]) -> Any:
    """What a module gave, with images contiguous where those that it got were: Neo's layout is for its inside alone."""
    if isinstance(out, LiteTensor) and out.ndim != 4:
        return out
    if any(x.ndim == 4 and not x.is_contiguous() for x in args if isinstance(x, LiteTensor | torch.Tensor)):
        return out
    return pytree.tree_map(
        lambda leaf: leaf.contiguous() if isinstance(leaf, LiteTensor) and leaf.ndim == 4 else leaf, out
    )


def _own(leaf: Any) -> Any:
    """LiteTensors as this call's own, to be changed in place without anybody else seeing it."""
    return shallow_copy(leaf) if isinstance(leaf, LiteTensor) else leaf


def _lift(leaf: Any) -> Any:
    return lifted(leaf) if isinstance(leaf, torch.Tensor) else _own(leaf)
