"""Recurrent layers, with torch's weights and names."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from neo.nn import init
from neo.nn.module import Module

__all__ = ["GRU", "LSTM", "RNN"]


class _Recurrent(Module):
    """x (n, time, inputs) → (outputs, last state); the batch comes first. W, b: uniform in ±1/√size, as in torch.

    Weights of layer k: weight_ih_lk, weight_hh_lk, bias_ih_lk, bias_hh_lk, and the same with _reverse at the end.

    model(params, x, state=None): outputs (n, time, directions · size) of the last layer; the state as it is returned,
    (layers · directions, n, size), zeros at the start by default.

    Args:
        inputs, size: entries of x and of the state at each step.
        layers: one on top of the other, ≥ 1.
        bidirectional: a second network reads from the end; outputs are side by side.
    Cost: a dozen small kernels for each step, layer and direction.
    """

    gates: ClassVar[int]

    def __init__(
        self, inputs: int, size: int, layers: int = 1, bias: bool = True, bidirectional: bool = False
    ):
        if min(inputs, size, layers) < 1:
            raise ValueError(
                f"{type(self).__name__}: inputs, size and layers must be at least 1, got {inputs}, {size}, {layers}"
            )
        self.inputs, self.size, self.layers, self.bias = inputs, size, layers, bias
        self.directions = 2 if bidirectional else 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        rows = self.gates * self.size
        for layer in range(self.layers):
            inputs = self.inputs if layer == 0 else self.directions * self.size
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: self.directions]:
                shapes |= {f"weight_ih{suffix}": (rows, inputs), f"weight_hh{suffix}": (rows, self.size)}
                if self.bias:
                    shapes |= {f"bias_ih{suffix}": (rows,), f"bias_hh{suffix}": (rows,)}
        return shapes

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        bound = 1 / math.sqrt(self.size)
        return {name: init.uniform(shape, bound, generator) for name, shape in self.shapes().items()}

    def _run(self, fn: Any, params: Any, x: Any, state: Any) -> Any:
        weights = [params[name] for name in self.shapes()]
        options = (self.bias, self.layers, 0.0, False, self.directions == 2, True)
        return fn(x, state, weights, *options)

    def _zeros(self, x: Any) -> torch.Tensor:
        shape = (self.layers * self.directions, x.shape[0], self.size)
        return torch.zeros(shape, dtype=x.dtype, device=x.device)


class LSTM(_Recurrent):
    """Long short-term memory; the state is (h, c). See neo.functions.recurrent.lstm_step for the formula."""

    __doc__ += _Recurrent.__doc__ or ""
    gates = 4

    def __call__(self, params: Any, x: Any, state: Any = None) -> Any:
        y, h, c = self._run(
            torch.lstm, params, x, (self._zeros(x), self._zeros(x)) if state is None else state
        )
        return y, (h, c)


class GRU(_Recurrent):
    """Gated recurrent unit; the state is h. See neo.functions.recurrent.gru_step for the formula."""

    __doc__ += _Recurrent.__doc__ or ""
    gates = 3

    def __call__(self, params: Any, x: Any, state: Any = None) -> Any:
        return self._run(torch.gru, params, x, self._zeros(x) if state is None else state)


class RNN(_Recurrent):
    """h′ = f(W_ih x + b_ih + W_hh h + b_hh), f = tanh, or max(·, 0) with relu=True; the state is h."""

    __doc__ += _Recurrent.__doc__ or ""
    gates = 1

    def __init__(
        self,
        inputs: int,
        size: int,
        layers: int = 1,
        bias: bool = True,
        bidirectional: bool = False,
        relu: bool = False,
    ):
        super().__init__(inputs, size, layers, bias, bidirectional)
        self.relu = relu

    def __call__(self, params: Any, x: Any, state: Any = None) -> Any:
        fn = torch.rnn_relu if self.relu else torch.rnn_tanh
        return self._run(fn, params, x, self._zeros(x) if state is None else state)
