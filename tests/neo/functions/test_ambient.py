"""Every op under torch's default device and default dtype: tensors that its rule makes stand where its arguments do."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
import torch

import neo
from neo import LiteTensor

pytest.importorskip("expecttest", reason="torch's operator database needs it")
pytest.importorskip("torch.testing._internal.common_methods_invocations")

from tests.neo.autograd.test_ambient import default_dtype
from tests.neo.functions.certificate import ENTRIES, _as_function, sampled
from tests.neo.functions.orders import scalar, tensors

LARGEST = 800


def value_and_gradients(call: Any, args: list[torch.Tensor]) -> list[Any]:
    """What call gives on LiteTensors, and the gradients of its scalar at first and second order."""
    torch.manual_seed(0)
    seen: list[Any] = []

    def loss(*xs: Any) -> Any:
        out = call(*xs)
        seen[:] = tensors(out)
        total = scalar([value for value in seen if isinstance(value, LiteTensor)])
        return sum(x.sum() for x in xs) if total is None else total

    places = tuple(range(len(args)))
    xs = [LiteTensor(x) for x in args]
    first = neo.grad(loss, argnums=places)(*xs)
    values = list(seen)
    second = neo.grad(lambda *xs: scalar(neo.grad(loss, argnums=places)(*xs)), argnums=places)(*xs)
    return [*values, *first, *second]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", sampled(op for op in ENTRIES if torch.float32 in op.dtypes))
def test_op_is_the_same_under_another_default_device_and_dtype(op: Any):
    torch.manual_seed(0)
    for sample in itertools.islice(op.sample_inputs("cpu", torch.float32), 3):
        call, args = _as_function(op, sample)
        if not args or sum(x.numel() for x in args) > LARGEST:
            continue
        # Under a default device torch's kernels multiply, not Neo's own: on both sides, or sums would round elsewhere.
        for kernels, setting in (
            (contextlib.nullcontext(), default_dtype(torch.float64)),
            (neo.kernels.switched_off(), torch.device("meta")),
        ):
            with kernels:
                try:
                    expected = value_and_gradients(call, args)
                except (NotImplementedError, RuntimeError, TypeError):
                    continue  # refused, or without a gradient
                with setting:
                    got = value_and_gradients(call, args)
            for mine, theirs in zip(got, expected, strict=True):
                assert (mine.dtype, mine.device) == (theirs.dtype, theirs.device)
                torch.testing.assert_close(mine.data, theirs.data, rtol=1e-4, atol=1e-5, equal_nan=True)
