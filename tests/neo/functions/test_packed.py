"""Packed sequences inside a module: pack, read, pad, at second order beside torch's double backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
    unpad_sequence,
)

import neo
from tests.neo.nn.meta_gradients import assert_meta_gradients_agree

TOKENS = torch.tensor([[1, 4, 2, 0, 0], [3, 2, 1, 4, 2], [2, 0, 0, 0, 0], [4, 4, 1, 0, 0]])
LENGTHS = torch.tensor([3, 5, 1, 3])
KINDS = {
    "LSTM": lambda **o: nn.LSTM(4, 3, **o),
    "GRU": lambda **o: nn.GRU(4, 3, **o),
    "RNN-tanh": lambda **o: nn.RNN(4, 3, **o),
    "RNN-relu": lambda **o: nn.RNN(4, 3, nonlinearity="relu", **o),
    "LSTM-projected": lambda **o: nn.LSTM(4, 3, proj_size=2, **o),
}
OPTIONS = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True},
    "no-bias": {"bias": False, "batch_first": True},
}


class Reader(nn.Module):
    """Token embeddings, packed by `pack`, read, and made one tensor again by `use`."""

    def __init__(self, recurrent: nn.Module, pack: Callable[..., Any], use: Callable[..., Any]):
        super().__init__()
        self.embed, self.recurrent = nn.Embedding(5, 4), recurrent
        self.pack, self.use = pack, use

    def forward(self, tokens: torch.Tensor) -> Any:
        return self.use(self.recurrent, self.pack(self.embed(tokens), self.recurrent.batch_first))


def padded(x: Any, first: bool, **options: Any) -> Any:
    x = x if first else x.transpose(0, 1)
    return pack_padded_sequence(x, LENGTHS, batch_first=first, enforce_sorted=False, **options)


def listed(x: Any, first: bool) -> Any:
    return pack_sequence([row[:n] for row, n in zip(x, LENGTHS.tolist(), strict=True)], enforce_sorted=False)


def sorted_already(x: Any, first: bool) -> Any:
    order = torch.argsort(LENGTHS, descending=True)
    x = x[order] if first else x[order].transpose(0, 1)
    return pack_padded_sequence(x, LENGTHS[order], batch_first=first)


def whole(recurrent: Any, packed: Any) -> Any:
    out, last = recurrent(packed)
    y, _ = pad_packed_sequence(out, batch_first=recurrent.batch_first, padding_value=0.5, total_length=6)
    last = torch.cat(last, -1) if isinstance(last, tuple) else last
    return y, last


def rows(recurrent: Any, packed: Any) -> Any:
    return recurrent(packed)[0].data


def activated(recurrent: Any, packed: Any) -> Any:
    """A layer on the rows, put back into a packed sequence, as is done to share one linear map over steps."""
    packed = PackedSequence(torch.tanh(packed.data), *packed[1:])
    out = recurrent(packed._replace(data=packed.data * 2))[0]
    return torch.cat([row.sum(0) for row in unpack_sequence(out)])


def started(recurrent: Any, packed: Any) -> Any:
    """From a first state that is differentiated too."""
    layers = recurrent.num_layers * (2 if recurrent.bidirectional else 1)
    size = getattr(recurrent, "proj_size", 0) or recurrent.hidden_size
    h = packed.data.sum(0)[:size].expand(layers, 4, size)
    if isinstance(recurrent, nn.LSTM):
        return recurrent(packed, (h, packed.data.sum().expand(layers, 4, recurrent.hidden_size)))[0].data
    return recurrent(packed, h)[0].data


def again(recurrent: Any, packed: Any) -> Any:
    y, lengths = pad_packed_sequence(recurrent(packed)[0], batch_first=True)
    rows = [row * 2 for row in unpad_sequence(y, lengths, batch_first=True)]
    return pad_sequence(rows, batch_first=True, padding_value=1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_recurrent_layers_read_packed_sequences(kind, options):
    torch.manual_seed(0)
    module = Reader(KINDS[kind](**OPTIONS[options]), padded, whole).double()
    assert_meta_gradients_agree(module, (TOKENS,), (TOKENS.flip(0),))


@pytest.mark.parametrize("pack", [listed, sorted_already])
@pytest.mark.parametrize("use", [whole, rows, activated, started, again])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_packed_sequences_are_made_and_taken_apart(pack, use, kind):
    torch.manual_seed(0)
    module = Reader(KINDS[kind](batch_first=True), pack, use).double()
    assert_meta_gradients_agree(module, (TOKENS,), (TOKENS.flip(0),))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("value", [0.0, -2.0])
def test_pad_sequence_pads_at_either_end(side, batch_first, value):
    x = [torch.randn(n, 2, dtype=torch.float64) for n in (3, 1, 4)]

    def padded(*x: Any) -> Any:
        return pad_sequence(list(x), batch_first, value, side)

    assert torch.equal(padded(*map(neo.LiteTensor, x)).data, padded(*x))
    assert neo.gradcheck(lambda *x: padded(*x) ** 3, tuple(map(neo.LiteTensor, x)), order=2)
    with pytest.raises(RuntimeError, match="padding_side"):
        pad_sequence([neo.LiteTensor(one) for one in x], padding_side="middle")


def test_rows_of_a_packed_sequence_from_outside_are_differentiated():
    torch.manual_seed(0)
    module = nn.GRU(4, 3).double()
    model, params = neo.nn.from_torch(module)
    x = torch.randn(5, 4, 4, dtype=torch.float64)
    packed = pack_padded_sequence(neo.LiteTensor(x), LENGTHS, enforce_sorted=False)
    assert isinstance(packed, PackedSequence)

    def loss(rows: Any) -> Any:
        return (model(params, packed._replace(data=rows))[0].data ** 2).sum()

    gradient = neo.grad(loss, argnums=0)(packed.data)
    theirs = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    theirs.data.requires_grad_()
    (expected,) = torch.autograd.grad((module(theirs)[0].data ** 2).sum(), theirs.data)
    torch.testing.assert_close(gradient.data, expected, rtol=1e-10, atol=1e-12)


def test_packed_sequence_is_an_argument_like_any_other():
    torch.manual_seed(0)
    module = nn.LSTM(4, 3).double()
    model, params = neo.nn.from_torch(module)
    x = torch.randn(5, 4, 4, dtype=torch.float64)
    packed = pack_padded_sequence(neo.LiteTensor(x), LENGTHS, enforce_sorted=False)

    def loss(packed: Any) -> Any:
        return (model(params, packed)[0].data ** 3).sum()

    gradient = neo.grad(loss, argnums=0)(packed)
    assert isinstance(gradient, PackedSequence)
    assert gradient[1:] == (None, None, None)
    curvature = neo.hvp(lambda rows: loss(packed._replace(data=rows)), (packed.data,), (packed.data,))
    theirs = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    theirs.data.requires_grad_()
    (expected,) = torch.autograd.grad((module(theirs)[0].data ** 3).sum(), theirs.data, create_graph=True)
    torch.testing.assert_close(gradient.data.data, expected.detach(), rtol=1e-10, atol=1e-12)
    (second,) = torch.autograd.grad((expected * theirs.data.detach()).sum(), theirs.data)
    torch.testing.assert_close(curvature[0].data, second, rtol=1e-9, atol=1e-12)
