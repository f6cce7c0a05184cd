"""What has no derivative: comparisons, tests, logic, places and counts. Results are constants."""

from __future__ import annotations

import torch

from neo.autograd._aliases import detached
from neo.autograd.tensor import LiteTensor
from neo.functions.registry import constant, implements

constant(
    torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge, torch.not_equal, torch.less, torch.less_equal,
    torch.greater, torch.greater_equal, torch.isclose, torch.allclose, torch.equal, torch.isin,
)  # fmt: skip
constant(
    torch.isnan, torch.isinf, torch.isfinite, torch.isposinf, torch.isneginf, torch.isreal, torch.signbit
)
constant(torch.logical_and, torch.logical_or, torch.logical_xor, torch.logical_not)
constant(torch.bitwise_and, torch.bitwise_or, torch.bitwise_xor, torch.bitwise_not)
constant(
    torch.all, torch.any, torch.argmax, torch.argmin, torch.argsort, torch.count_nonzero, torch.nonzero,
    torch.argwhere, torch.searchsorted, torch.bucketize, torch.bincount,
)  # fmt: skip
constant(
    torch.zeros_like, torch.ones_like, torch.empty_like, torch.rand_like, torch.randn_like,
    torch.randint_like, torch.bernoulli, torch.multinomial,
    torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_empty,
)  # fmt: skip
constant(torch.is_floating_point, torch.is_complex, torch.numel, torch.result_type)
constant(
    torch.Tensor.long,
    torch.Tensor.int,
    torch.Tensor.bool,
    torch.Tensor.short,
    torch.Tensor.byte,
    torch.Tensor.char,
)
constant(torch.nn.functional.one_hot)


@implements(torch.Tensor.detach)
def detach(x):
    """The same numbers as a constant, on the same memory."""
    return detached(x) if isinstance(x, LiteTensor) else x.detach()


constant(
    torch.normal
)  # torch's gradient by mean and spread is zero too; draw noise, and scale it, for another
