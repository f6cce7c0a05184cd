"""What code written for torch asks a tensor about itself: sizes, kinds, places. Answered by the tensor behind."""

from __future__ import annotations

from typing import Any

import torch

from neo.autograd.tensor import LiteTensor
from neo.functions.casting import to
from neo.functions.registry import constant, implements, raw

Tensor: Any = torch.Tensor

constant(torch._is_all_true, torch._is_any_true, torch.is_nonzero, torch.is_signed, torch.is_same_size)
constant(torch.is_inference, torch.is_conj, torch.is_neg, torch.is_distributed)
constant(
    Tensor.nelement, Tensor.ndimension, Tensor.get_device, Tensor.data_ptr, Tensor.const_data_ptr,
    Tensor.storage_offset, Tensor.dim_order, Tensor.is_set_to, Tensor.is_shared, Tensor.is_pinned,
    Tensor._is_view, Tensor._is_zerotensor, Tensor.new_empty_strided,
)  # fmt: skip
constant(torch.bitwise_left_shift, torch.bitwise_right_shift, torch.gcd, torch.lcm)
constant(Tensor.__lshift__, Tensor.__rshift__, Tensor.__rlshift__, Tensor.__rrshift__)


@implements(Tensor.new, only=True)
def new(x, *args, **kwargs):
    """A torch tensor of x's dtype and device, as torch makes it: from sizes (whatever numbers), a list or a tensor.

    A torch tensor and no LiteTensor, for what is made so is to be written into: x.new(3).normal_().
    """
    data = raw(x)
    if len(args) == 1 and isinstance(args[0], LiteTensor | torch.Tensor):
        args = (raw(args[0]).tolist(),)
    if args and all(isinstance(size, int) for size in args):
        return data.new_empty(args, **kwargs)
    if not args or isinstance(args[0], torch.Size):
        return data.new_empty(args[0] if args else (0,), **kwargs)
    return data.new_tensor(*args, **kwargs)


@implements(Tensor.type, only=True)
def type(x, dtype=None, non_blocking=False, **kwargs):
    """x.type(): torch's name of the kind of tensor, "torch.FloatTensor"; x.type(dtype or name): x as that."""
    if dtype is None:
        return raw(x).type()
    if not isinstance(dtype, torch.dtype):
        like = torch.empty(0).type(dtype)
        return to(x, dtype=like.dtype, device=like.device)
    return to(x, dtype=dtype)


@implements(torch.adjoint)
def adjoint(x):
    """xᵀ of each matrix: LiteTensors are real."""
    return x.transpose(-2, -1)


@implements(Tensor.to_dense, only=True)
def to_dense(x, dtype=None, masked_grad=None):
    """x, which is dense."""
    return x if dtype is None else to(x, dtype=dtype)
