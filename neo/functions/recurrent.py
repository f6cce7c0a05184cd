"""Recurrent networks: LSTM, GRU and the Elman RNN, by torch's own signatures and weights.

Compositions, so that they are differentiable at every order on every device; torch's fused kernels (cuDNN's among
them) stop at the first. An LSTM whose sequences are of one length is one Policy (recurrence.py). A sequence is kept as
rows, step after step, and `sizes` says how many rows each step has: the batch size for an ordinary sequence, ever fewer
for a packed one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from neo.autograd._queries import autocast_enabled
from neo.autograd.tensor import LiteTensor
from neo.functions.recurrence import lstm_recurrence
from neo.functions.registry import implements, raw

Step = Callable[..., tuple[Any, ...]]
"""(W_ih x + b_ih, state, w_hh, b_hh, *rest) → the next state, a tuple whose first entry is the output h."""


# --- one step ------------------------------------------------------------------------------------------------


def lstm_step(x, state, w_hh, b_hh=None, w_hr=None):
    """c′ = σ(f) c + σ(i) tanh(g),  h′ = σ(o) tanh(c′), projected by w_hr if given;  (i, f, g, o) = x + W_hh h + b_hh.

    Hochreiter and Schmidhuber 1997; the forget gate: Gers et al. 2000; the projection: Sak et al. 2014.
    """
    h, c = state
    i, f, g, o = torch.chunk(x + F.linear(h, w_hh, b_hh), 4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if w_hr is None else F.linear(h, w_hr)), c


def gru_step(x, state, w_hh, b_hh=None):
    """h′ = n + σ(z) (h − n),  n = tanh(xₙ + σ(r) (W_hn h + b_hn)),  r and z the sums of x and W_hh h + b_hh.

    Cho et al. 2014, arXiv:1406.1078, in the variant of cuDNN and torch: r scales W_hn h + b_hn, not h.
    """
    (h,) = state
    xr, xz, xn = torch.chunk(x, 3, -1)
    hr, hz, hn = torch.chunk(F.linear(h, w_hh, b_hh), 3, -1)
    n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return (n + torch.sigmoid(xz + hz) * (h - n),)


def tanh_step(x, state, w_hh, b_hh=None):
    """h′ = tanh(x + W_hh h + b_hh). Elman 1990."""
    return (torch.tanh(x + F.linear(state[0], w_hh, b_hh)),)


def relu_step(x, state, w_hh, b_hh=None):
    """h′ = max(x + W_hh h + b_hh, 0)."""
    return (torch.relu(x + F.linear(state[0], w_hh, b_hh)),)


# --- a sequence ----------------------------------------------------------------------------------------------


def _direction(step, rows, sizes, start, weights, has_biases, reverse):
    """One layer in one direction: its outputs, as rows, and its last state.

    A packed sequence ends for some rows before it does for others, which are the last ones: forward, their states are
    put aside; in reverse, they join when their sequence begins.
    """
    w_ih, w_hh, *rest = weights
    b_ih, b_hh, rest = (rest[0], rest[1], rest[2:]) if has_biases else (None, None, rest)
    if step is lstm_step and len(set(sizes)) == 1 and not rest and _alike((rows, w_ih, w_hh, *start)):
        bias = None if b_ih is None else b_ih + b_hh
        return _lstm_direction(F.linear(rows, w_ih, bias), sizes, start, w_hh, reverse)
    inputs = torch.split(F.linear(rows, w_ih, b_ih), list(sizes))
    outputs: list[Any] = []
    ended: list[Any] = []
    count = sizes[-1] if reverse else sizes[0]
    state = start if count == sizes[0] else tuple(part[:count] for part in start)
    for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
        if sizes[t] < count:
            ended.append(tuple(part[sizes[t] :] for part in state))
            state = tuple(part[: sizes[t]] for part in state)
        elif sizes[t] > count:
            joining = tuple(part[count : sizes[t]] for part in start)
            state = tuple(torch.cat(pair) for pair in zip(state, joining, strict=True))
        count = sizes[t]
        state = step(inputs[t], state, w_hh, b_hh, *rest)
        outputs.append(state[0])
    if ended:
        state = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
    return torch.cat(outputs[::-1] if reverse else outputs), state


def _alike(tensors):
    """Whether these are of one dtype, which autocast leaves alone, and none has a gradient of torch's own to keep."""
    of_torch = any(isinstance(tensor, torch.Tensor) and tensor.requires_grad for tensor in tensors)
    return len({tensor.dtype for tensor in tensors}) == 1 and not of_torch and not autocast_enabled()


def _lstm_direction(x, sizes, start, w_hh, reverse):
    """_direction of an LSTM whose steps are of one size."""
    if reverse:
        x = torch.cat(torch.split(x, sizes[0])[::-1])
    hs, cs, _ = lstm_recurrence(x, *start, w_hh)
    last = hs.shape[0] - sizes[0]
    state = (hs[last:], cs[last:])
    return (torch.cat(torch.split(hs, sizes[0])[::-1]) if reverse else hs), state


def _layers(step, rows, sizes, states, weights, has_biases, num_layers, dropout, train, bidirectional):
    """All layers: the outputs of the last, as rows, and the last states of all, stacked layer by layer."""
    directions = 2 if bidirectional else 1
    each = len(weights) // (num_layers * directions)
    last: list[tuple[Any, ...]] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            start = tuple(state[k] for state in states)
            own = weights[k * each : (k + 1) * each]
            out, state = _direction(step, rows, sizes, start, own, has_biases, direction == 1)
            outputs.append(out)
            last.append(state)
        rows = torch.cat(outputs, 1) if bidirectional else outputs[0]
        if dropout and train and layer < num_layers - 1:
            rows = F.dropout(rows, dropout, True)
    return rows, tuple(torch.stack(parts) for parts in zip(*last, strict=True))


def _recurrent(step, states_of, args):
    """torch's two signatures: (x, hx, weights, ...) and, for packed sequences, (rows, sizes, hx, weights, ...)."""
    packed = isinstance(args[3], list | tuple)
    if packed:
        rows, sizes, hx, *rest = args
        return _layers(step, rows, _integers(sizes), states_of(hx), *rest)
    x, hx, *rest, batch_first = args
    if batch_first:
        x = x.transpose(0, 1)
    steps, batch = x.shape[:2]
    rows, last = _layers(step, x.reshape((steps * batch, x.shape[2])), [batch] * steps, states_of(hx), *rest)
    y = rows.reshape((steps, batch, rows.shape[1]))
    return (y.transpose(0, 1) if batch_first else y), last


def _integers(sizes: Any) -> list[int]:
    """Sizes or lengths, which torch keeps on the CPU, as numbers."""
    return raw(sizes).tolist() if isinstance(sizes, torch.Tensor | LiteTensor) else [int(n) for n in sizes]


def _checked(name, args):
    if len(args) != 9:
        raise TypeError(
            f"{name}: expected (x, hx, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first), "
            f"or (rows, batch_sizes, hx, weights, ..., bidirectional) for a packed sequence; got {len(args)} arguments"
        )
    return args


@implements(torch.lstm, only=True, name="lstm")
def lstm(*args):
    """(outputs, h, c) of an LSTM: x (time, batch, in), hx = (h, c), each (layers · directions, batch, size).

    Arguments as torch.lstm takes them, all positional; weights is a flat list, for each layer and direction
    w_ih (4 size, in), w_hh (4 size, size), b_ih, b_hh if has_biases, w_hr with a projection. What torch.nn.LSTM calls.
    Cost: a handful of small kernels a step; one node on each open tape, and three a step on one that tracks the
    gradient. Packed sequences of several lengths, and projections: about 15 nodes a step.
    """
    y, (h, c) = _recurrent(lstm_step, tuple, _checked("lstm", args))
    return y, h, c


def _one_state(name, step):
    def recurrent(*args):
        y, (h,) = _recurrent(step, lambda hx: (hx,), _checked(name, args))
        return y, h

    recurrent.__name__ = recurrent.__qualname__ = name
    recurrent.__doc__ = f"(outputs, h) of torch.{name}, all arguments positional; see lstm."
    return recurrent


gru = implements(torch.gru, only=True, name="gru")(_one_state("gru", gru_step))
rnn_tanh = implements(torch.rnn_tanh, only=True, name="rnn_tanh")(_one_state("rnn_tanh", tanh_step))
rnn_relu = implements(torch.rnn_relu, only=True, name="rnn_relu")(_one_state("rnn_relu", relu_step))


# --- cells ---------------------------------------------------------------------------------------------------


@implements(torch.lstm_cell, only=True, name="lstm_cell")
def lstm_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """One step: x (batch, in), hx = (h, c), each (batch, size) → (h′, c′)."""
    return lstm_step(F.linear(x, w_ih, b_ih), tuple(hx), w_hh, b_hh)


@implements(torch.gru_cell, only=True, name="gru_cell")
def gru_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """One step: x (batch, in), hx (batch, size) → h′."""
    return gru_step(F.linear(x, w_ih, b_ih), (hx,), w_hh, b_hh)[0]


@implements(torch.rnn_tanh_cell, only=True, name="rnn_tanh_cell")
def rnn_tanh_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """One step: x (batch, in), hx (batch, size) → h′."""
    return tanh_step(F.linear(x, w_ih, b_ih), (hx,), w_hh, b_hh)[0]


@implements(torch.rnn_relu_cell, only=True, name="rnn_relu_cell")
def rnn_relu_cell(x, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """One step: x (batch, in), hx (batch, size) → h′."""
    return relu_step(F.linear(x, w_ih, b_ih), (hx,), w_hh, b_hh)[0]


# --- packed sequences ----------------------------------------------------------------------------------------


def _places(lengths: Sequence[int], sizes: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(time, sequence) of each row of a packed sequence."""
    times = torch.cat([torch.full((n,), t, device="cpu") for t, n in enumerate(sizes)])
    sequences = torch.cat([torch.arange(n, device="cpu") for n in sizes])
    return times, sequences


def _step_sizes(lengths: Sequence[int]) -> list[int]:
    """How many of the sequences, the longest first, reach each step."""
    return [sum(n > t for n in lengths) for t in range(max(lengths))]


@implements(torch._pack_padded_sequence, only=True)
def pack_padded_sequence(x, lengths, batch_first=False):
    """The rows of padded sequences (time, batch, *) that are no padding, step by step, and how many each step has."""
    if batch_first:
        x = x.transpose(0, 1)
    given = _integers(lengths)
    if given != sorted(given, reverse=True) or given[-1] < 1 or given[0] > x.shape[0]:
        raise RuntimeError(
            f"pack_padded_sequence: expected lengths in falling order, from 1 to {x.shape[0]}, got {given}"
        )
    sizes = _step_sizes(given)
    times, sequences = _places(given, sizes)
    return x[times.to(x.device), sequences.to(x.device)], torch.tensor(sizes, device="cpu")


@implements(torch._pad_packed_sequence, only=True)
def pad_packed_sequence(rows, batch_sizes, batch_first, padding_value, total_length):
    """pack_padded_sequence backwards: (time, batch, *), padded with a number, and the length of each sequence."""
    sizes = _integers(batch_sizes)
    lengths = [sum(n > k for n in sizes) for k in range(sizes[0])]
    steps = len(sizes) if total_length <= 0 else total_length
    times, sequences = (place.to(rows.device) for place in _places(lengths, sizes))
    padding = rows.new_full((steps, sizes[0], *rows.shape[1:]), padding_value)
    x = torch.index_put(padding, (times, sequences), rows)
    return (x.transpose(0, 1) if batch_first else x), torch.tensor(lengths, device="cpu")


@implements(torch._C._nn.pad_sequence, only=True, name="pad_sequence")
def pad_sequence(sequences, batch_first=False, padding_value=0.0, padding_side="right"):
    """Sequences (time, *) of any lengths as one tensor (time, sequence, *), padded with a number at one end of time.

    What torch.nn.utils.rnn.pad_sequence and pack_sequence call.
    """
    if padding_side not in ("right", "left"):
        raise RuntimeError(f"pad_sequence: padding_side must be 'right' or 'left', got {padding_side!r}")
    longest = max(len(x) for x in sequences)
    rows = []
    for x in sequences:
        ends = (0, longest - len(x)) if padding_side == "right" else (longest - len(x), 0)
        rows.append(F.pad(x, (0, 0) * (x.ndim - 1) + ends, value=padding_value))
    return torch.stack(rows, 0 if batch_first else 1)
