"""The chain of tiny ops: y ← tanh y, y·v, y + v, sin y, differentiated with respect to its start and to v."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import neo
from benchmarks.step import Arrays, Spec, Step
from benchmarks.torch_problem import arrays_of

__all__ = ["neo_functions", "neo_operators", "torch_eager"]


def neo_operators(spec: Spec) -> Step:
    """Torch's functions and Python's operators on LiteTensors, as a user writes it."""
    return _neo(spec, _written(spec.work["ops"]))


def neo_functions(spec: Spec) -> Step:
    """neo.functions by name, past the dispatch of torch functions."""
    f: Any = neo.functions  # its names are made when it is imported

    def chain(y: Any, v: Any) -> Any:
        for _ in range(spec.work["ops"] // 4):
            y = f.sin(f.add(f.mul(f.tanh(y), v), v))
        return y

    return _neo(spec, chain)


def torch_eager(spec: Spec) -> Step:
    """PyTorch's autograd; setting: call (grad, or backward)."""
    chain = _written(spec.work["ops"])
    y, v = (tensor.requires_grad_() for tensor in _start(spec))
    seed = torch.ones_like(y)

    def by_grad() -> Any:
        for _ in range(spec.work["chains"]):
            out = chain(y, v)
            gradients = torch.autograd.grad(out, (y, v), seed)
        return out, gradients

    def by_backward() -> Any:
        for _ in range(spec.work["chains"]):
            y.grad = v.grad = None
            out = chain(y, v)
            out.backward(seed)
        return out, (y.grad, v.grad)

    return Step(
        by_grad if spec.setting["call"] == "grad" else by_backward, lambda out: _result(out[0], *out[1])
    )


def _written(ops: int) -> Callable[[Any, Any], Any]:
    def chain(y: Any, v: Any) -> Any:
        for _ in range(ops // 4):
            y = torch.sin(torch.tanh(y) * v + v)
        return y

    return chain


def _neo(spec: Spec, chain: Callable[[Any, Any], Any]) -> Step:
    y, v = (neo.LiteTensor(tensor) for tensor in _start(spec))
    gradient = neo.value_and_grad(chain, argnums=(0, 1))

    def run() -> Any:
        for _ in range(spec.work["chains"]):
            out = gradient(y, v)
        return out

    return Step(run, lambda out: _result(out[0].data, *(g.data for g in out[1])))


def _start(spec: Spec) -> tuple[torch.Tensor, torch.Tensor]:
    elements = spec.work["elements"]
    return torch.linspace(-1, 1, elements, device=spec.device), torch.linspace(
        0.5, 1.5, elements, device=spec.device
    )


def _result(out: torch.Tensor, y_bar: torch.Tensor, v_bar: torch.Tensor) -> Arrays:
    return arrays_of(out.sum(), {"y": y_bar, "v": v_bar})
