"""No op of Neo makes a program wait for a GPU where torch's own does not. Seen on the CPU; no GPU takes part."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor
from tests.neo.functions.orders import assert_orders_agree, neo_orders, scalar, torch_orders
from tests.neo.functions.samples import SAMPLES
from tests.neo.synchronisation import Synchronisations

SLICES = 6


@pytest.mark.parametrize("part", range(SLICES))
def test_op_and_its_gradients_wait_only_where_torch_waits(part):
    more = {}
    for case in SAMPLES[part::SLICES]:
        with Synchronisations() as ours:
            neo_orders(case.fn, case.args, 2)
        if ours.seen:
            with Synchronisations() as theirs:
                torch_orders(case.examiner or case.fn, case.args, min(case.orders, 2))
            if not theirs.seen:
                more[case.id] = ours.seen
    assert more == {}


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([[1, 2, 1], [2, 3, 3]])
POOLED = F.max_pool2d(normal(1, 2, 4, 4), 2, return_indices=True)[1]
PADDED = torch.tensor([[0, 1, 2], [2, 2, 0]])
UNREDUCED = {
    "det": (torch.linalg.det, normal(2, 3, 3)),
    "median": (torch.median, normal(7)),
    "nanmedian": (torch.nanmedian, normal(7)),
    "quantile": (lambda x: torch.quantile(x, torch.tensor([0.2, 0.7], dtype=x.dtype)), normal(7)),
    "ctc_loss": (
        lambda x: F.ctc_loss(torch.log_softmax(x, 2), LABELS, (5, 4), (3, 2)),
        normal(5, 2, 4),
    ),
    "max_unpool2d": (lambda x: F.max_unpool2d(x, POOLED, 2), normal(1, 2, 2, 2)),
    "masked_scatter": (lambda x: torch.masked_scatter(x, torch.arange(6) % 2 == 0, x * 2), normal(6)),
    "gaussian_nll_loss": (lambda x: F.gaussian_nll_loss(x, x * 0.5, x * x), normal(5)),
    "as_strided": (lambda x: torch.as_strided(x, (2, 2), (1, 2)), normal(6)),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.tensor([0, -100, 2])), normal(3, 4)),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x, torch.ones(4, 4, dtype=torch.bool).tril()),
        normal(2, 4, 3),
    ),
    **{
        f"embedding_bag-{mode}": (
            lambda w, mode=mode: F.embedding_bag(PADDED, w, mode=mode, padding_idx=2),
            normal(3, 2),
        )
        for mode in ("sum", "mean", "max")
    },
    "getitem by a 0-dim tensor": (
        lambda x: x[torch.tensor(-2)] * x[:, torch.tensor(1), None, 1].sum(),
        normal(3, 4, 2),
    ),
    "take": (lambda x: torch.take(x, torch.tensor(2)), normal(3, 2)),
    "embedding": (lambda w: F.embedding(torch.tensor(1), w, padding_idx=0), normal(3, 2)),
    "checkpoint": (neo.checkpoint(lambda x: torch.sin(x) * x), normal(5)),
    "vmap": (lambda x: neo.vmap(lambda row: torch.sin(row) * row.sum(), chunk_size=2)(x), normal(3, 4)),
}


@pytest.mark.parametrize("name", UNREDUCED)
def test_op_reads_no_number_to_second_order(name):
    fn, x = UNREDUCED[name]
    with Synchronisations(refuse=True):
        neo_orders(fn, (x,), 2)


def test_replayed_intermediate_is_compared_without_reading_a_number():
    class Cube(neo.autograd.Policy):
        def forward(self, x):
            squared = x * x
            self.ctx.save(squared)
            return squared * x

        def backward(self, grad):
            return grad * self.ctx.release[0] * 3

    with Synchronisations(refuse=True):
        neo_orders(neo.functions.function(Cube), (normal(4),), 2)


ONE, MINUS = torch.tensor(1), torch.tensor(-2)


@pytest.mark.parametrize(
    "index",
    [
        ONE, MINUS, (ONE,), (ONE, MINUS), (0, ONE), (ONE, 0), (ONE, slice(1, 3)), (slice(None), ONE),
        (slice(0, 2), ONE, slice(None)), (slice(None), slice(None), MINUS), (None, ONE, None, 0), (ONE, None, MINUS, 1),
        (..., ONE), (ONE, ...), (ONE, torch.tensor([0, 2])), (torch.tensor([0, 2]), slice(None), ONE),
        (ONE, torch.tensor([True, False, True, True])), (LiteTensor(ONE), 1), (True, ONE), (ONE.to(torch.int32), ONE),
    ],
    ids=str,
)  # fmt: skip
def test_index_of_0_dim_tensors_is_torchs(index):
    x = normal(3, 4, 2)
    plain = (
        tuple(e.data if isinstance(e, LiteTensor) else e for e in index)
        if isinstance(index, tuple)
        else index
    )
    assert_orders_agree(lambda x: x[plain if isinstance(x, torch.Tensor) else index], (x,))


@pytest.mark.parametrize("index", [torch.tensor(3), (ONE, torch.tensor(-5)), (ONE, ONE, ONE, ONE)], ids=str)
def test_index_of_0_dim_tensors_out_of_bounds_raises_torchs_error(index):
    for x in (normal(3, 4, 2), LiteTensor(normal(3, 4, 2))):
        with pytest.raises(IndexError, match=r"too many indices|out of bounds"):
            x[index]


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag_with_padding_and_offsets_is_torchs(mode, padding_idx):
    places, offsets = torch.tensor([2, 0, 1, 2, 2, 2, 0]), torch.tensor([0, 3, 3, 6])
    fn = lambda w: F.embedding_bag(places, w, offsets, mode=mode, padding_idx=padding_idx)  # noqa: E731
    w = normal(3, 2)
    torch.testing.assert_close(fn(LiteTensor(w)).data, fn(w))
    theirs = w.clone().requires_grad_()
    (expected,) = torch.autograd.grad(scalar(fn(theirs)), theirs)
    torch.testing.assert_close(neo_orders(fn, (w,), 1)[0].data, expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_gradient_of_det_at_a_singular_matrix_is_right_where_numbers_may_not_be_looked_at(n):
    """Inside vmap, as on a GPU, both ways are computed, and the numbers choose."""
    regular, singular = normal(n, n), normal(n, n)
    singular[:, 0] = singular[:, -1] if n > 1 else 0
    singular[0] = 0
    assert torch.linalg.det(singular) == 0
    fn = neo.grad(torch.linalg.det, argnums=0)
    batch = LiteTensor(torch.stack([regular, singular, torch.zeros(n, n, dtype=torch.float64)]))
    expected = torch.stack([fn(x).data for x in batch])
    torch.testing.assert_close(neo.vmap(fn)(batch).data, expected, rtol=1e-8, atol=1e-8)
    if n == 1:  # whose gradient is constant
        return
    second = neo.grad(lambda x: fn(x).sum(), argnums=0)
    found = neo.grad(lambda x: neo.vmap(fn)(x).sum(), argnums=0)(batch)
    torch.testing.assert_close(found.data, torch.stack([second(x).data for x in batch]), rtol=1e-8, atol=1e-8)
