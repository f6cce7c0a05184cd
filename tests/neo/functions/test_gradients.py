"""Every op of the table against torch: values, gradients, gradients of gradients (and third order on the hot path)."""

from __future__ import annotations

import itertools

import optree
import pytest
import torch

import neo.functions  # noqa: F401  (registers the ops)
from neo import LiteTensor
from neo.autograd import session
from tests.neo.functions.orders import assert_orders_agree, close, scalar, tensors, torch_orders
from tests.neo.functions.samples import SAMPLES, Case

IDS = [f"{i}-{case.id}" for i, case in enumerate(SAMPLES)]


@pytest.mark.parametrize("case", SAMPLES, ids=IDS)
def test_op_agrees_with_torch_at_every_order(case: Case):
    assert_orders_agree(case.fn, case.args, case.orders, case.examiner)


@pytest.mark.parametrize("case", SAMPLES, ids=IDS)
def test_op_gradients_have_the_layout_of_their_inputs_in_float32(case: Case):
    args = [x.float() for x in case.args]
    got = session.grad(lambda *xs: scalar(case.fn(*xs)), argnums=tuple(range(len(args))))(
        *[LiteTensor(x) for x in args]
    )
    for x, gradient in zip(args, got, strict=True):
        assert gradient.shape == x.shape
        assert gradient.dtype == torch.float32
        assert gradient.device == x.device


@pytest.mark.parametrize(
    "case",
    [c for c in SAMPLES if len(c.args) > 1],
    ids=[i for i, c in zip(IDS, SAMPLES, strict=True) if len(c.args) > 1],
)
def test_op_gives_the_same_gradients_when_only_some_inputs_need_them(case: Case):
    full = torch_orders(case.examiner or case.fn, case.args, 1)
    n = len(case.args)
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(1, n)):

        def partial(*xs, chosen=chosen):
            given = list(case.args)
            for i, x in zip(chosen, xs, strict=True):
                given[i] = x
            return scalar(case.fn(*given))

        got = session.grad(partial, argnums=tuple(range(len(chosen))))(
            *[LiteTensor(case.args[i]) for i in chosen]
        )
        for i, gradient in zip(chosen, got, strict=True):
            close(gradient, full[i], f"gradient of input {i} when only {chosen} need one")


@pytest.mark.parametrize("case", SAMPLES, ids=IDS)
def test_op_agrees_with_torch_on_inputs_that_are_not_contiguous(case: Case):
    if case.id.startswith("view"):
        pytest.skip("a view of a tensor that is not contiguous raises, in torch too")
    apart = [torch.stack([x, torch.zeros_like(x)], -1)[..., 0] for x in case.args]
    assert_orders_agree(case.fn, apart, 1, case.examiner)


@pytest.mark.parametrize("case", SAMPLES, ids=IDS)
def test_op_on_plain_torch_tensors_gives_plain_torch_tensors(case: Case):
    if case.id == "conv2d-same-even":
        pytest.skip("torch warns of the copy it makes")
    out = case.fn(*case.args)
    lite = case.fn(*[LiteTensor(x) for x in case.args])
    for a, b in zip(optree.tree_leaves(out), optree.tree_leaves(lite), strict=True):
        assert isinstance(a, torch.Tensor) == isinstance(b, LiteTensor)
    assert all(not x.requires_grad for x in tensors(out))
