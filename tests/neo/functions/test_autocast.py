"""torch.autocast op by op: Neo's lists against torch's own, on torch's operator database.

On the CPU dtypes, values and gradients are compared; for CUDA, dtypes alone, on fake tensors, which need no GPU.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import optree
import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor
from neo.functions import registry
from neo.functions.autocast_lists import LISTS
from neo.functions.autocasting import kinds_of

pytest.importorskip("expecttest", reason="torch's operator database needs it")
pytest.importorskip("torch.testing._internal.common_methods_invocations")

from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from tests.neo.functions.certificate import ENTRIES, REFLECTED, full_name
from tests.neo.functions.orders import scalar

SAMPLES = 2
LARGEST = 500
HOMES = (torch, torch.Tensor, F, torch.linalg, torch._C._nn)
OFF = {
    # the chunked kernel of torch computes in the dtype that x has, whatever autocast says
    "nn.functional.linear_cross_entropy-chunked",
    "nn.functional.linear_cross_entropy-chunked_none",
    "zero_",  # in place
    "linalg.det",  # of half precision, which torch has for empty matrices alone
    "_softmax_backward_data",  # its samples name a dtype
}
# Fake tensors stop autocast inside of the first three, where a GPU's would go on; to_sparse asks for a real GPU.
OFF_ON_FAKE_CUDA = {"linalg.pinv", "linalg.pinv-hermitian", "linalg.pinv-singular", "to_sparse"}


def is_listed(op: Any, device: str) -> bool:
    return device in (kinds_of([getattr(op.op, "__name__", op.name), op.name.rpartition(".")[2]]) or {})


def entries(device: str) -> list[Any]:
    """All that can be asked about a device; what is in no list, and so is left alone, among the exhaustive ones."""
    off = OFF | OFF_ON_FAKE_CUDA if device == "cuda" else OFF
    return [
        pytest.param(op, id=full_name(op), marks=() if is_listed(op, device) else pytest.mark.exhaustive)
        for op in ENTRIES
        if torch.float32 in op.dtypes and full_name(op) not in off
    ]


@contextlib.contextmanager
def autocast(device: str, dtype: torch.dtype) -> Iterator[None]:
    """torch.autocast, which warns and does nothing for CUDA without a GPU."""
    before = torch.get_autocast_dtype(device)
    torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_enabled(device, True)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, False)
        torch.set_autocast_dtype(device, before)


def leaves(out: Any) -> list[Any]:
    return [leaf for leaf in optree.tree_leaves(out) if isinstance(leaf, torch.Tensor | LiteTensor)]


def samples(
    op: Any, change: Callable[[torch.Tensor], torch.Tensor], count: int
) -> Iterator[tuple[Callable[..., Any], list[torch.Tensor]]]:
    """Samples as functions of their floating-point tensors; `change` is made of every tensor."""
    torch.manual_seed(0)
    fn = REFLECTED.get(op.name, op.op)
    with unset_fake_temporarily():
        drawn = list(itertools.islice(op.sample_inputs("cpu", torch.float32), count))
    for sample in drawn:
        flat, spec = optree.tree_flatten((sample.input, tuple(sample.args), sample.kwargs), none_is_leaf=True)
        given = [leaf for leaf in flat if isinstance(leaf, torch.Tensor)]
        if any(leaf.layout is not torch.strided for leaf in given) or sum(x.numel() for x in given) > LARGEST:
            continue
        flat = [change(leaf.detach()) if isinstance(leaf, torch.Tensor) else leaf for leaf in flat]
        places = [
            i for i, leaf in enumerate(flat) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        ]

        def call(
            *xs: Any, flat: Any = flat, spec: Any = spec, places: Any = places, sample: Any = sample
        ) -> Any:
            filled = list(flat)
            for place, x in zip(places, xs, strict=True):
                filled[place] = x
            first, args, kwargs = optree.tree_unflatten(spec, filled)
            return sample.output_process_fn_grad(op.gradcheck_wrapper(fn, first, *args, **kwargs))

        if places:
            yield call, [flat[i] for i in places]


def by_neo(call: Callable[..., Any], xs: list[torch.Tensor], device: str, dtype: torch.dtype) -> Any:
    """(outputs, gradients of scalar(outputs)) under autocast, the walk back outside; None where Neo refuses."""
    seen: list[Any] = []

    def loss(*xs: Any) -> Any:
        with autocast(device, dtype):
            seen.append(call(*xs))
        total = scalar([out for out in leaves(seen[0]) if isinstance(out, LiteTensor)])
        return sum(x.sum() for x in xs) * 0 if total is None else total

    try:
        gradients = neo.grad(loss, argnums=tuple(range(len(xs))))(*[LiteTensor(x) for x in xs])
    except NotImplementedError:
        return None
    return leaves(seen[0]), gradients


def close(got: Any, expected: torch.Tensor, tolerance: float) -> bool:
    got, expected = getattr(got, "data", got).double(), expected.detach().double()
    finite = expected[expected.isfinite()]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(got, expected, rtol=tolerance, atol=tolerance * max(size, 0.1), equal_nan=True)


PRECISIONS = {
    "float32": lambda i: torch.float32,
    "lower": lambda i: torch.bfloat16,
    "mixed": lambda i: (torch.float32, torch.bfloat16)[i % 2],
    "mixed the other way": lambda i: (torch.bfloat16, torch.float32)[i % 2],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", entries("cpu"))
def test_op_agrees_with_torch_under_autocast_on_the_cpu(op: Any):
    for call, xs32 in samples(op, lambda x: x, SAMPLES):
        for name, dtype_of in PRECISIONS.items():
            if name.startswith("mixed") and len(xs32) == 1:
                continue
            xs = [x.to(dtype_of(i)) if x.dtype is torch.float32 else x for i, x in enumerate(xs32)]
            mine = [x.clone().requires_grad_() for x in xs]
            try:
                with autocast("cpu", torch.bfloat16):
                    out = call(*mine)
                total = scalar([x for x in leaves(out) if x.requires_grad])
                theirs = (
                    [None] * len(xs) if total is None else torch.autograd.grad(total, mine, allow_unused=True)
                )
            except (RuntimeError, ValueError, TypeError, IndexError):
                continue  # torch refuses the dtypes
            answered = by_neo(call, xs, "cpu", torch.bfloat16)
            if answered is None:
                continue
            outputs, gradients = answered
            where = f"{name} {[tuple(x.shape) for x in xs]}"
            assert [x.dtype for x in outputs] == [x.dtype for x in leaves(out)], where
            for got, expected in zip(outputs, leaves(out), strict=True):
                assert close(got, expected, 0.02), where
            for x, got, expected in zip(xs, gradients, theirs, strict=True):
                assert got.dtype is x.dtype, where
                assert close(got, torch.zeros_like(x) if expected is None else expected, 0.05), where


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", entries("cuda"))
def test_op_has_torchs_dtypes_under_autocast_on_cuda(op: Any):
    for lower in (False, True):

        def on_cuda(x: torch.Tensor, lower: bool = lower) -> torch.Tensor:
            dtype = torch.float16 if lower and x.dtype is torch.float32 else x.dtype
            return torch.empty_strided(x.shape, x.stride(), dtype=dtype, device="cuda")

        with FakeTensorMode(allow_non_fake_inputs=True):
            for call, xs in samples(op, on_cuda, 1):
                try:
                    with autocast("cuda", torch.float16):
                        expected = [x.dtype for x in leaves(call(*xs))]
                    answered = by_neo(call, xs, "cuda", torch.float16)
                except (RuntimeError, ValueError, TypeError):
                    continue  # on no dtype of these, or not without a GPU
                if answered is None:
                    continue
                outputs, gradients = answered
                assert [x.dtype for x in outputs] == expected
                assert [g.dtype for g in gradients] == [x.dtype for x in xs]


def listed_by_torch(device: str) -> set[str]:
    """The names of torch's ops that have a kernel of autocast's own."""
    key = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}[device]
    return {
        name.removeprefix("aten::").partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    }


@pytest.mark.parametrize("device", LISTS)
def test_every_supported_op_that_autocast_knows_is_listed(device: str):
    supported = neo.functions.supported()
    known = {
        target
        for name in listed_by_torch(device)
        for home in HOMES
        for target in [getattr(home, name, None), getattr(home, name.removeprefix("linalg_"), None)]
        if target in supported and getattr(target, "__name__", "") == name
    }
    missing = {target.__name__ for target in known if device not in (kinds_of([target.__name__]) or {})}
    assert len(known) > 40
    assert missing == set()


@pytest.mark.parametrize("device", LISTS)
def test_every_listed_name_is_that_of_a_supported_op(device: str):
    names = {getattr(target, "__name__", "").removeprefix("special_") for target in registry.supported()}
    assert set(LISTS[device]) <= names
