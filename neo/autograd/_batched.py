"""What may be asked of tensors under vmap, where a tensor stands for a whole batch of them."""

from __future__ import annotations

import torch
from torch._C import _functorch

__all__ = ["any_batched", "close", "is_batched", "is_sliced_here"]


def is_batched(tensor: torch.Tensor) -> bool:
    """Is this one slice of a batch, inside torch.func.vmap? Then its numbers cannot be read, and layouts not asked."""
    return _functorch.is_batchedtensor(tensor)


def is_sliced_here(tensor: torch.Tensor) -> bool:
    """Does this tensor depend on what the innermost open vmap slices? (Outer vmaps may slice it or not.)"""
    return (
        _functorch.is_batchedtensor(tensor)
        and _functorch.maybe_get_level(tensor) == _functorch.maybe_current_level()
    )


def any_batched(*tensors: torch.Tensor | None) -> bool:
    if _functorch.peek_interpreter_stack() is None:  # no transform is open: spares looking at each
        return False
    return any(tensor is not None and _functorch.is_batchedtensor(tensor) for tensor in tensors)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one shape agree up to rounding, NaN being equal to NaN; under vmap, for every slice."""
    # torch.isclose, spelled out, for it has no batched form
    agree = ((a == b) | ((a - b).abs() <= 1e-8 + 1e-5 * b.abs()) | (a.isnan() & b.isnan())).all()
    while _functorch.is_functorch_wrapped_tensor(agree):
        agree = _functorch.get_unwrapped(agree).all()
    return bool(agree)
