"""A fused Policy against the composition that it names: values, and gradients of every order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from neo import pytree
from neo.autograd.policy import Policy, function
from neo.autograd.session.reverse import grad
from neo.autograd.tensor import LiteTensor
from neo.errors import GradcheckError

__all__ = ["check_composition"]


def check_composition(
    policy: type[Policy], args: tuple, order: int = 3, *, rtol: float = 1e-8, atol: float = 1e-11
) -> bool:
    """Compare a fused Policy with its composition, in value and in gradients up to `order`; True when all agree.

    The gradients of order k are those of the mean of w (v + v²/2) over what order k − 1 gave (v: the outputs at first,
    then all gradients), with uneven weights w, so that cotangents depend on the inputs and no term hides behind a
    symmetry.

    Args:
        policy: a Policy with a `composition`.
        args: what forward takes; floating-point LiteTensors are differentiated, all else is constant. float64 leaves
            the two a rounding apart; in float32 loosen rtol.
        order: highest order of gradients, 0 for values alone.
        rtol, atol: ‖got − expected‖ ≤ atol + rtol ‖expected‖, tensor by tensor.
    Raises: GradcheckError naming the order, the tensor and its entry that is furthest off; TypeError for a Policy that
        names no composition.
    Cost: each order about three times the one before.
    """
    if policy.composition is None:
        raise TypeError(
            f"check_composition: {policy.__name__} names no composition; give it one (a static method of forward's "
            f"arguments, made of Neo's and torch's functions)"
        )
    places = tuple(i for i, arg in enumerate(args) if isinstance(arg, LiteTensor) and arg.is_floating_point())
    fused: Callable[..., Any] = function(policy)
    composed: Callable[..., Any] = policy.composition
    for level in range(order + 1):
        for i, (got, expected) in enumerate(
            zip(_tensors(fused(*args)), _tensors(composed(*args)), strict=True)
        ):
            what = f"gradient {i} of argument {places[i]}" if level else f"output {i}"
            _compare(f"{policy.__name__}: order {level}: {what}", got, expected, rtol, atol)
        fused, composed = _gradient(fused, places), _gradient(composed, places)
    return True


def _gradient(fn: Callable[..., Any], places: tuple[int, ...]) -> Callable[..., Any]:
    """The gradients of the means of w (v + v²/2) over the tensors v that fn gives, w between 0.5 and 1.5."""

    def scalar(*args: Any) -> Any:
        parts = []
        for value in _tensors(fn(*args)):
            line = torch.arange(value.numel(), dtype=torch.float64).mul(2.39996).sin().mul(0.5).add(1.0)
            w = line.reshape(tuple(value.shape)).to(dtype=value.dtype, device=value.device)
            parts.append((w * (value + value * value * 0.5)).mean())
        return sum(parts[1:], parts[0])

    return grad(scalar, argnums=places)


def _tensors(outputs: Any) -> list[Any]:
    """The floating-point tensors among what a function gave: integers have no gradient, and no rounding to compare."""
    return [
        value
        for value in pytree.leaves(outputs)
        if isinstance(value, LiteTensor | torch.Tensor) and value.is_floating_point()
    ]


def _compare(what: str, got: Any, expected: Any, rtol: float, atol: float) -> None:
    found, right = (value.data if isinstance(value, LiteTensor) else value for value in (got, expected))
    if found.shape != right.shape or found.dtype is not right.dtype:
        raise GradcheckError(
            f"{what}: expected {right.dtype} of shape {tuple(right.shape)} by the composition, got {found.dtype} "
            f"of shape {tuple(found.shape)}"
        )
    away = (found - right).abs()
    if bool(away.norm() <= atol + rtol * right.norm()):
        return
    worst = int(away.nan_to_num(torch.inf).argmax())
    entry = tuple(int(i) for i in np.unravel_index(worst, tuple(found.shape)))
    raise GradcheckError(
        f"{what}, entry {entry}, is off: expected {float(right.flatten()[worst]):.9g} by the composition, got "
        f"{float(found.flatten()[worst]):.9g}"
    )
