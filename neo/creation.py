"""Making tensors: torch's factories, giving LiteTensors. Random draws come from torch's generators.

Where a LiteTensor is among the arguments (a fill value, an end), neo.functions answers, with its gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from neo.autograd.tensor import LiteTensor
from neo.functions import registry

__all__ = [
    "arange",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "linspace",
    "manual_seed",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
    "tensor",
    "zeros",
    "zeros_like",
]


def _lite(make: Callable[..., torch.Tensor], name: str) -> Callable[..., LiteTensor]:
    @functools.wraps(make)
    def factory(*args: Any, **kwargs: Any) -> LiteTensor:
        if kwargs.pop("requires_grad", False):
            raise TypeError(
                f"{name}: LiteTensors have no requires_grad; what is differentiated is for "
                f"value_and_grad's arguments to say"
            )
        if any(isinstance(value, LiteTensor) for value in (*args, *kwargs.values())):
            return registry.dispatch(make, args, kwargs)
        return LiteTensor._wrap(make(*args, **kwargs).detach())

    factory.__doc__ = f"torch.{name} with the same arguments, as a LiteTensor."
    return factory


arange = _lite(torch.arange, "arange")
empty = _lite(torch.empty, "empty")
empty_like = _lite(torch.empty_like, "empty_like")
eye = _lite(torch.eye, "eye")
full = _lite(torch.full, "full")
full_like = _lite(torch.full_like, "full_like")
linspace = _lite(torch.linspace, "linspace")
ones = _lite(torch.ones, "ones")
ones_like = _lite(torch.ones_like, "ones_like")
rand = _lite(torch.rand, "rand")
rand_like = _lite(torch.rand_like, "rand_like")
randint = _lite(torch.randint, "randint")
randint_like = _lite(torch.randint_like, "randint_like")
randn = _lite(torch.randn, "randn")
randn_like = _lite(torch.randn_like, "randn_like")
randperm = _lite(torch.randperm, "randperm")
zeros = _lite(torch.zeros, "zeros")
zeros_like = _lite(torch.zeros_like, "zeros_like")


def tensor(
    data: Any, dtype: torch.dtype | None = None, device: str | torch.device | None = None
) -> LiteTensor:
    """A copy of data (number, nested list, numpy array, tensor) as a LiteTensor."""
    made = LiteTensor(data, dtype=dtype, device=device)
    return LiteTensor._wrap(made.data.clone()) if isinstance(data, torch.Tensor | LiteTensor) else made


def manual_seed(seed: int) -> torch.Generator:
    """Seed torch's default generators, of the CPU and of every GPU."""
    return torch.manual_seed(seed)
