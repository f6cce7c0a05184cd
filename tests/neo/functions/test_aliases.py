"""Which results lie on the memory of an argument, as torch has it: what in-place work in torch code depends on."""

from __future__ import annotations

import itertools
from typing import Any

import optree
import pytest
import torch

from neo.autograd._aliases import aliases_of
from neo.autograd.tensor import LiteTensor
from neo.errors import InPlaceError

pytest.importorskip("expecttest", reason="torch's operator database needs it")
pytest.importorskip("torch.testing._internal.common_methods_invocations")

from tests.neo.functions.certificate import ENTRIES, _as_function, sampled

SAMPLES = 8


def shares(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.numel() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def overlaps_itself(tensor: torch.Tensor) -> bool:
    return any(step == 0 and size > 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", sampled(ENTRIES))
def test_result_is_a_view_where_torchs_is(op: Any):
    torch.manual_seed(0)
    for sample in itertools.islice(op.sample_inputs("cpu", torch.float64, requires_grad=False), SAMPLES):
        call, args = _as_function(op, sample)
        lites = [LiteTensor(x) for x in args]
        if sum(x.numel() for x in args) > 2000:
            continue
        try:
            ours: Any = optree.tree_leaves(call(*lites))
        except (NotImplementedError, InPlaceError):
            continue
        theirs: Any = optree.tree_leaves(call(*args))
        for our, their in zip(ours, theirs, strict=True):
            if not isinstance(their, torch.Tensor) or not isinstance(our, LiteTensor) or not their.numel():
                continue
            if their.layout is not torch.strided:
                continue
            known = [our is lite or any(lite is relative for relative in aliases_of(our)) for lite in lites]
            assert known == [shares(their, x) for x in args], sample
            for lite, related in zip(lites, known, strict=True):
                assert not related or shares(our.data, lite.data)
            if any(known):  # what is written to, or read, by its strides
                assert (
                    our.data.stride() == their.stride()
                    or not their.is_contiguous()
                    or our.data.is_contiguous()
                )
            else:
                assert not overlaps_itself(our.data) or overlaps_itself(their)
