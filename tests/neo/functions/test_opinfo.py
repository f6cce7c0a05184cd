"""torch's own operator database as a second examiner: its sample inputs, our gradients, torch's gradients.

Every entry whose op Neo answers is tried, in float64, to second order. A sample that Neo refuses by name
(NotImplementedError, InPlaceError) is passed over; a wrong number never is.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

import optree
import pytest
import torch

import neo.functions
from neo import LiteTensor
from neo.errors import InPlaceError
from tests.neo.functions.orders import assert_orders_agree, tensors, torch_orders

pytest.importorskip("expecttest", reason="torch's operator database needs it")
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db

SAMPLES_PER_OP = 6
ENTRIES_PER_SAMPLE = 2000
# Entries whose `op` wraps a torch callable, so that it is not itself among the supported ones.
WRAPPED = {"einsum", "T", "mT", "nn.functional.embedding", "meshgrid", "polygamma"}
REFLECTED = {
    "__radd__": lambda x, y: y + x,
    "__rmul__": lambda x, y: y * x,
    "__rsub__": lambda x, y: y - x,
    "__rdiv__": lambda x, y: y / x,
    "__rpow__": lambda x, y: y**x,
    "__rmod__": lambda x, y: y % x,
    "__rmatmul__": lambda x, y: y @ x,
    "__getitem__": operator.getitem,
}
UNDEFINED_VALUES = {"empty_like", "new_empty"}
RANDOM = {"bernoulli", "multinomial", "rand_like", "randn_like", "randint_like", "nn.functional.dropout"}


def answered(op: Any) -> bool:
    supported = neo.functions.supported()
    known = op.op in supported or op.method_variant in supported or op.name in WRAPPED or op.name in REFLECTED
    return known and torch.float64 in op.dtypes and op.name not in UNDEFINED_VALUES | RANDOM


ENTRIES = [op for op in op_db if answered(op)]


def full_name(op: Any) -> str:
    return f"{op.name}-{op.variant_test_name}" if op.variant_test_name else op.name


def at_a_kink(op: Any) -> bool:
    """Are the samples where there is a subgradient and no second derivative?"""
    return op.variant_test_name == "subgradients_at_zero"


def examine(op: Any, samples: int | None) -> int:
    """Compare on the first `samples` sample inputs; gives the number compared."""
    compared = 0
    torch.manual_seed(0)
    fn = REFLECTED.get(op.name, op.op)
    given = op.sample_inputs("cpu", torch.float64, requires_grad=False)
    for sample in itertools.islice(given, samples):
        leaves, spec = optree.tree_flatten(
            (sample.input, tuple(sample.args), sample.kwargs), none_is_leaf=True
        )
        places = [
            i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        ]
        if not places or sum(leaves[i].numel() for i in places) > ENTRIES_PER_SAMPLE:
            continue

        def call(*xs: Any, leaves: Any = leaves, spec: Any = spec, places: Any = places) -> Any:
            filled = list(leaves)
            for place, x in zip(places, xs, strict=False):
                filled[place] = x
            first, args, kwargs = optree.tree_unflatten(spec, filled)
            return fn(first, *args, **kwargs)

        args = [leaves[i] for i in places]
        try:
            call(*[LiteTensor(x) for x in args])
        except (NotImplementedError, InPlaceError):
            continue
        orders = 0 if not op.supports_autograd else 2 if op.supports_gradgrad and not at_a_kink(op) else 1
        if orders and not tensors(call(*args)):
            orders = 0
        if orders:
            try:
                torch_orders(call, args, 1)
            except RuntimeError as error:
                if "not differentiable with respect to argument" not in str(error):
                    raise
                args = args[:1]  # torch differentiates by the first alone
        assert_orders_agree(call, args, orders, tolerance=1e-7)
        compared += 1
    return compared


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", ENTRIES, ids=full_name)
def test_op_agrees_with_torch_on_samples_of_its_database(op: Any):
    if not examine(op, SAMPLES_PER_OP):
        pytest.skip("every sample is refused by name, or too large")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", ENTRIES, ids=full_name)
def test_op_agrees_with_torch_on_every_sample_of_its_database(op: Any):
    if not examine(op, None):
        pytest.skip("every sample is refused by name, or too large")


def test_database_covers_most_of_the_library():
    assert len(ENTRIES) > 250
