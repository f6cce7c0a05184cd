"""gradcheck: a function's gradients against finite differences, to any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import torch

from neo.autograd.session import vjp
from neo.errors import GradcheckError
from neo.tensor import LiteTensor

__all__ = ["gradcheck"]


def gradcheck(
    fn: Callable[..., Any],
    args: Any,
    order: int = 2,
    *,
    eps: float = 1e-6,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    seed: int = 0,
) -> bool:
    """Compare fn's derivatives up to `order` with central differences, entry by entry; True when all agree.

    At order k the (k−1)-th gradient map, with random cotangents, is itself the function under test, so that what is
    checked at order 2 is what an outer session would see of fn's rules.

    Args:
        fn: any function of LiteTensors in any pytree, a whole inner loop included; outputs likewise.
        args: a tuple of its arguments (or one argument); every floating-point LiteTensor must be float64.
        order: highest order to check, ≥ 1.
        eps: step of the difference, absolute, in units of the input.
        rtol, atol: |got − expected| ≤ atol + rtol |expected|.
        seed: of the random cotangents.
    Raises: GradcheckError naming the order, input, entry, expected and got; TypeError for inputs that are not float64.
    Cost: two calls of fn per entry of the inputs and order; meant for small inputs.
    """
    args = args if isinstance(args, tuple) else (args,)
    if order < 1:
        raise ValueError(f"gradcheck: order must be at least 1, got {order}")
    leaves, paths = optree.tree_leaves(args), optree.tree_paths(args)
    tensors = [(leaf, path) for leaf, path in zip(leaves, paths, strict=True) if _moves(leaf)]
    if not tensors:
        raise TypeError(
            "gradcheck: expected at least one floating-point LiteTensor among the arguments, got none"
        )
    for leaf, path in tensors:
        if leaf.dtype != torch.float64:
            raise TypeError(
                f"gradcheck: {_where(path)} is {leaf.dtype}; finite differences need float64: x.to(torch.float64)"
            )
    generator = torch.Generator().manual_seed(seed)
    name = getattr(fn, "__name__", type(fn).__name__)
    names = [_where(path) for _, path in tensors]
    for level in range(1, order + 1):
        cotangent = _random_like(fn(*args), generator)
        _check_first_order(fn, args, cotangent, names, f"gradcheck({name}): order {level}", eps, rtol, atol)
        if level < order:
            fn, args = _gradient_map(fn, len(args)), (*args, cotangent)
            names = [*names, *(f"cotangent {level}.{i}" for i in range(len(optree.tree_leaves(cotangent))))]
    return True


def _gradient_map(fn: Callable[..., Any], count: int) -> Callable[..., Any]:
    """(args, cotangent) ↦ the gradients, as a function to be checked at the next order."""

    def gradient(*args: Any) -> Any:
        _, pullback = vjp(fn, *args[:count])
        return pullback(args[count])

    return gradient


def _check_first_order(
    fn: Callable[..., Any],
    args: tuple,
    cotangent: Any,
    names: list[str],
    label: str,
    eps: float,
    rtol: float,
    atol: float,
) -> None:
    _, pullback = vjp(fn, *args)
    got = optree.tree_leaves(pullback(cotangent))
    tree: Any = args
    leaves, spec = optree.tree_flatten(tree)
    positions = [i for i, leaf in enumerate(leaves) if _moves(leaf)]
    bars = [bar.data for bar in optree.tree_leaves(cotangent)]

    def projected(position: int, moved: torch.Tensor) -> float:
        changed = [*leaves[:position], LiteTensor(moved), *leaves[position + 1 :]]
        outputs = optree.tree_leaves(fn(*optree.tree_unflatten(spec, changed)))
        return sum(float((bar * out.data).sum()) for bar, out in zip(bars, outputs, strict=True))

    for name, position, gradient in zip(names, positions, got, strict=True):
        base = leaves[position].data
        for entry in range(base.numel()):
            values = []
            for step in (eps, -eps):
                moved = base.clone(memory_format=torch.contiguous_format)
                moved.view(-1)[entry] += step
                values.append(projected(position, moved))
            expected = (values[0] - values[1]) / (2 * eps)
            found = float(gradient.data.reshape(-1)[entry])
            if not abs(found - expected) <= atol + rtol * abs(expected):
                index = tuple(int(i) for i in np.unravel_index(entry, base.shape))
                raise GradcheckError(
                    f"{label}: the gradient of {name}, entry {index}, is off: expected {expected:.9g} by central "
                    f"difference, got {found:.9g}. Check the backward of the Policies that {name} goes through."
                )


def _moves(leaf: Any) -> bool:
    return isinstance(leaf, LiteTensor) and leaf.is_floating_point()


def _random_like(out: Any, generator: torch.Generator) -> Any:
    def draw(leaf: LiteTensor) -> LiteTensor:
        values = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        return LiteTensor(values, dtype=leaf.dtype, device=leaf.device)

    return optree.tree_map(draw, out)


def _where(path: tuple) -> str:
    return f"input {path[0]}" + "".join(f"[{key!r}]" for key in path[1:])
